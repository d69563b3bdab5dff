package callback_test

import (
	"context"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/caddyfile"
)

// Caddy answers an empty 200 where no route matches, and Deepgram takes that for a delivery. So
// every Caddyfile that people copy has to answer by itself for every host and every path that a
// request can have.

// caddyfiles are all Caddyfiles in documents and in files of their own, by where they are.
func caddyfiles(t *testing.T) map[string]string {
	t.Helper()
	all := exampleFiles(t)
	for file, text := range documents(t) {
		for line, config := range fences(text, "caddyfile") {
			all[file+":"+strconv.Itoa(line)] = config
		}
	}
	return all
}

// receivers are the servers of a configuration that have a deepgram_callback handler. They are
// provisioned, and do not listen.
func receivers(t *testing.T, config []byte) map[string]*caddyhttp.Server {
	t.Helper()
	parsed := new(caddy.Config)
	require.NoError(t, caddy.StrictUnmarshalJSON(config, parsed))
	var configured struct {
		Servers map[string]json.RawMessage `json:"servers"`
	}
	require.NoError(t, json.Unmarshal(parsed.AppsRaw["http"], &configured))
	parsed.Admin = &caddy.AdminConfig{Disabled: true}
	parsed.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{
		caddy.DefaultLoggerName: {
			BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output": "discard"}`)},
		},
	}}
	ctx, err := caddy.ProvisionContext(parsed)
	require.NoError(t, err)
	app, err := ctx.App("http")
	require.NoError(t, err)
	servers := app.(*caddyhttp.App).Servers
	maps.DeleteFunc(servers, func(name string, _ *caddyhttp.Server) bool {
		return !strings.Contains(string(configured.Servers[name]), `"handler":"`+caddyfile.Directive+`"`)
	})
	return servers
}

// hostsOf are the hosts that a server's routes match.
func hostsOf(server *caddyhttp.Server) []string {
	var hosts []string
	for _, route := range server.Routes {
		for _, set := range route.MatcherSets {
			for _, matcher := range set {
				if named, ok := matcher.(*caddyhttp.MatchHost); ok {
					hosts = append(hosts, *named...)
				}
			}
		}
	}
	return hosts
}

// unanswered are the hosts for which a request to an unexpected path gets an empty 200.
func unanswered(t *testing.T, server *caddyhttp.Server) []string {
	t.Helper()
	hosts := hostsOf(server)
	tls := len(server.TLSConnPolicies) > 0 || slices.Contains(server.Listen, ":443")
	ask := slices.Clone(hosts)
	if len(hosts) != 1 || !tls { // with one host and TLS, another one fails at the TLS handshake
		ask = append(ask, "no-site-has-this.example.net")
	}
	var found []string
	for _, host := range ask {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut} {
			request := httptest.NewRequest(method, "/no/route/has/this", nil)
			request.Host = host
			local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443}
			request = request.WithContext(context.WithValue(request.Context(),
				http.LocalAddrContextKey, local))
			answer := httptest.NewRecorder()
			server.ServeHTTP(answer, request)
			if answer.Code == http.StatusOK {
				found = append(found, host)
				break
			}
		}
	}
	return found
}

func TestNoCaddyfileLeavesACallbackToCaddysEmpty200(t *testing.T) {
	checked := 0
	for where, text := range caddyfiles(t) {
		t.Run(where, func(t *testing.T) {
			for name, server := range receivers(t, adapt(t, furnish(t, text))) {
				checked++
				require.Empty(t, unanswered(t, server), "%s has no answer for these hosts", name)
			}
		})
	}
	require.Greater(t, checked, 10)
}

// The test above does find Caddyfiles that do not answer.
func TestAnEmpty200IsFound(t *testing.T) {
	for name, test := range map[string]struct {
		caddyfile string
		hosts     []string
	}{
		"a matcher of the directive": {
			"callbacks.example.com {\n\tdeepgram_callback /live/* 127.0.0.1:9000 {\n\t\tanonymous\n\t}\n}\n",
			[]string{"callbacks.example.com"},
		},
		"a matcher around it": {
			"callbacks.example.com {\n\thandle /live/* {\n" +
				"\t\tdeepgram_callback 127.0.0.1:9000 {\n\t\t\tanonymous\n\t\t}\n\t}\n}\n",
			[]string{"callbacks.example.com"},
		},
		"a host without TLS": {
			"http://callbacks.example.com {\n\tdeepgram_callback 127.0.0.1:9000 {\n\t\tanonymous\n\t}\n}\n",
			[]string{"no-site-has-this.example.net"},
		},
		"no matcher": {
			"callbacks.example.com {\n\tdeepgram_callback 127.0.0.1:9000 {\n\t\tanonymous\n\t}\n}\n",
			nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			servers := receivers(t, adapt(t, test.caddyfile))
			require.Len(t, servers, 1)
			for _, server := range servers {
				require.Equal(t, test.hosts, unanswered(t, server))
			}
		})
	}
}
