package simulator

// The grammar of the directive `deepgram_simulator`.

import (
	"strconv"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	s := new(Simulator)
	return s, s.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the simulator from Caddyfile tokens. Syntax:
//
//	deepgram_simulator [<matcher>] {
//		api_key <key> <key_id>        # repeatable; without any, every key is taken
//		dg_token on | off             # default on
//		ports <port...> | any         # of callback URLs; default 80 443 8080 8443
//		allow <address or CIDR...>    # that it may call besides loopback
//		latency <duration>            # before a batch callback; default 500ms
//		retries <n>                   # default 10
//		retry_delay <duration>        # default 30s
//		timeout <duration>            # default 10s
//		results <file or folder>      # bodies to send instead of the built-in ones
//		fault duplicate | drop_after <n> | never_close | slow_upload <bytes per second>
//	}
//
// `fault` can be repeated with different faults, everything else but `api_key`
// stands once.
func (s *Simulator) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the directive's name
	if d.NextArg() {
		return d.ArgErr()
	}
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		name := d.Val()
		if seen[name] {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = name != "api_key" && name != "fault"
		if err := s.unmarshalSubdirective(d, name); err != nil {
			return err
		}
		if d.NextBlock(1) {
			return d.Errf("%s takes no block", name)
		}
	}
	return nil
}

func (s *Simulator) unmarshalSubdirective(d *caddyfile.Dispenser, name string) error {
	switch name {
	case "api_key":
		return s.unmarshalAPIKey(d)
	case "dg_token":
		return s.unmarshalDGToken(d)
	case "ports":
		return s.unmarshalPorts(d)
	case "allow":
		return s.unmarshalAllow(d)
	case "latency":
		return unmarshalDuration(d, name, &s.Latency)
	case "retry_delay":
		return unmarshalDuration(d, name, &s.RetryDelay)
	case "timeout":
		return s.unmarshalTimeout(d)
	case "retries":
		return s.unmarshalRetries(d)
	case "results":
		if !d.AllArgs(&s.Results) {
			return d.ArgErr()
		}
		if s.Results == "" {
			return d.Err("results needs a file or a folder")
		}
		return nil
	case "fault":
		return s.unmarshalFault(d)
	default:
		return d.Errf("unrecognized subdirective %q", name)
	}
}

func (s *Simulator) unmarshalAPIKey(d *caddyfile.Dispenser) error {
	var key APIKey
	if !d.AllArgs(&key.Key, &key.ID) {
		return d.ArgErr()
	}
	if key.Key == "" || key.ID == "" {
		return d.Err("api_key needs a key and its identifier")
	}
	for _, earlier := range s.APIKeys {
		if earlier.Key == key.Key {
			return d.Err("api_key repeats an earlier key")
		}
	}
	s.APIKeys = append(s.APIKeys, key)
	return nil
}

func (s *Simulator) unmarshalDGToken(d *caddyfile.Dispenser) error {
	var value string
	if !d.AllArgs(&value) {
		return d.ArgErr()
	}
	if value != "on" && value != "off" {
		return d.Errf("dg_token is on or off, not %q", value)
	}
	on := value == "on"
	s.DGToken = &on
	return nil
}

func (s *Simulator) unmarshalPorts(d *caddyfile.Dispenser) error {
	values := d.RemainingArgs()
	if len(values) == 0 {
		return d.ArgErr()
	}
	if len(values) == 1 && values[0] == "any" {
		s.AnyPort = true
		return nil
	}
	for _, value := range values {
		port, err := strconv.Atoi(value)
		if err != nil || port < 1 || port > 65535 {
			return d.Errf("%q is not a port", value)
		}
		s.Ports = append(s.Ports, port)
	}
	return nil
}

func (s *Simulator) unmarshalAllow(d *caddyfile.Dispenser) error {
	s.Allow = d.RemainingArgs()
	if len(s.Allow) == 0 {
		return d.ArgErr()
	}
	for _, value := range s.Allow {
		if _, err := parsePrefix(value); err != nil {
			return d.Errf("allow: %v", err)
		}
	}
	return nil
}

func (s *Simulator) unmarshalTimeout(d *caddyfile.Dispenser) error {
	var timeout *caddy.Duration
	if err := unmarshalDuration(d, "timeout", &timeout); err != nil {
		return err
	}
	if *timeout == 0 {
		return d.Err("timeout must be more than zero")
	}
	s.Timeout = *timeout
	return nil
}

func (s *Simulator) unmarshalRetries(d *caddyfile.Dispenser) error {
	var value string
	if !d.AllArgs(&value) {
		return d.ArgErr()
	}
	retries, err := strconv.Atoi(value)
	if err != nil || retries < 0 {
		return d.Errf("retries is a number from 0 on, not %q", value)
	}
	s.Retries = &retries
	return nil
}

func (s *Simulator) unmarshalFault(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.ArgErr()
	}
	fault, args := args[0], args[1:]
	takesValue := fault == "drop_after" || fault == "slow_upload"
	if takesValue != (len(args) == 1) || len(args) > 1 {
		return d.ArgErr()
	}

	var repeated bool
	switch fault {
	case "duplicate":
		repeated, s.Faults.Duplicate = s.Faults.Duplicate, true
	case "never_close":
		repeated, s.Faults.NeverClose = s.Faults.NeverClose, true
	case "drop_after":
		results, err := strconv.Atoi(args[0])
		if err != nil || results < 1 {
			return d.Errf("drop_after is a number of results from 1 on, not %q", args[0])
		}
		repeated, s.Faults.DropAfter = s.Faults.DropAfter != 0, results
	case "slow_upload":
		rate, err := humanize.ParseBytes(args[0])
		if err != nil || rate < 1 || rate > 1<<40 {
			return d.Errf("slow_upload is a number of bytes per second, not %q", args[0])
		}
		repeated, s.Faults.SlowUpload = s.Faults.SlowUpload != 0, int64(rate)
	default:
		return d.Errf("unrecognized fault %q", fault)
	}
	if repeated {
		return d.Errf("fault %s is given twice", fault)
	}
	return nil
}

// unmarshalDuration reads a duration that is not negative.
func unmarshalDuration(d *caddyfile.Dispenser, name string, into **caddy.Duration) error {
	var value string
	if !d.AllArgs(&value) {
		return d.ArgErr()
	}
	parsed, err := caddy.ParseDuration(value)
	if err != nil {
		return d.Errf("%s: %v", name, err)
	}
	if parsed < 0 {
		return d.Errf("%s must not be negative", name)
	}
	duration := caddy.Duration(parsed)
	*into = &duration
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Simulator)(nil)
