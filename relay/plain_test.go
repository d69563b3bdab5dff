package relay

import (
	"context"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/stretchr/testify/require"
)

// The ways in which a setting of Caddy's transport can be honoured.
const (
	byCaddy  = "honoured by the dialler, or the connection"
	byClient = "honoured by the own client"
	leftTo   = "leaves the transport to net/http"
)

// settingsOfCaddy are all settings of Caddy's transport. When Caddy gets a new one,
// the test fails until it is added here.
var settingsOfCaddy = map[string]struct{ becomes, example string }{
	"Resolver":              {byCaddy, `"resolver":{"addresses":["127.0.0.1:53"]}`},
	"TLS":                   {leftTo, `"tls":{}`},
	"KeepAlive":             {byClient, `"keep_alive":{"probe_interval":"1s"}`},
	"Compression":           {byClient, `"compression":false`},
	"MaxConnsPerHost":       {leftTo, `"max_conns_per_host":1`},
	"ProxyProtocol":         {leftTo, `"proxy_protocol":"v1"`},
	"ForwardProxyURL":       {leftTo, `"forward_proxy_url":"http://127.0.0.1:1"`},
	"DialTimeout":           {byCaddy, `"dial_timeout":"1s"`},
	"FallbackDelay":         {byCaddy, `"dial_fallback_delay":"1s"`},
	"ResponseHeaderTimeout": {byClient, `"response_header_timeout":"1s"`},
	"ExpectContinueTimeout": {leftTo, `"expect_continue_timeout":"1s"`},
	"MaxResponseHeaderSize": {byClient, `"max_response_header_size":4096`},
	"WriteBufferSize":       {leftTo, `"write_buffer_size":8192`},
	"ReadBufferSize":        {leftTo, `"read_buffer_size":8192`},
	"ReadTimeout":           {byCaddy, `"read_timeout":"1s"`},
	"WriteTimeout":          {byCaddy, `"write_timeout":"1s"`},
	"Versions":              {leftTo, `"versions":["h2c"]`},
	"LocalAddress":          {byCaddy, `"local_address":"127.0.0.1"`},
	"Transport":             {byCaddy, ``},
	"NetworkProxyRaw":       {leftTo, `"network_proxy":{"from":"url","url":"http://127.0.0.1:1"}`},

	"KeepAlive.Enabled":             {leftTo, `"keep_alive":{"enabled":false}`},
	"KeepAlive.ProbeInterval":       {byCaddy, `"keep_alive":{"probe_interval":"1s"}`},
	"KeepAlive.MaxIdleConns":        {byClient, `"keep_alive":{"max_idle_conns":3}`},
	"KeepAlive.MaxIdleConnsPerHost": {byClient, `"keep_alive":{"max_idle_conns_per_host":3}`},
	"KeepAlive.IdleConnTimeout":     {byClient, `"keep_alive":{"idle_timeout":"3s"}`},
}

func TestEverySettingOfCaddysTransportIsHonoured(t *testing.T) {
	known := make(map[string]bool)
	note := func(prefix string, settings reflect.Type) {
		for _, field := range reflect.VisibleFields(settings) {
			if field.IsExported() {
				require.Contains(t, settingsOfCaddy, prefix+field.Name)
				known[prefix+field.Name] = true
			}
		}
	}
	note("", reflect.TypeFor[reverseproxy.HTTPTransport]())
	note("KeepAlive.", reflect.TypeFor[reverseproxy.KeepAlive]())

	require.NotNil(t, provisioned(t, ``).plain)
	for name, setting := range settingsOfCaddy {
		require.True(t, known[name], "%s is no setting any more", name)
		if setting.example != "" {
			require.Equal(t, setting.becomes != leftTo,
				provisioned(t, ","+setting.example).plain != nil, name)
		}
	}
	require.Nil(t, provisioned(t, `,"versions":["2"]`).plain)
}

func TestSettingsReachTheClient(t *testing.T) {
	client := provisioned(t, `,"response_header_timeout":"1s","max_response_header_size":4096,
		"keep_alive":{"max_idle_conns":3,"max_idle_conns_per_host":4,"idle_timeout":"5s"},
		"compression":false`).plain.client
	require.Equal(t, time.Second, client.HeadTimeout)
	require.EqualValues(t, 4096, client.MaxHead)
	require.Equal(t, 3, client.MaxIdle)
	require.Equal(t, 4, client.MaxIdlePerAddress)
	require.Equal(t, 5*time.Second, client.IdleTimeout)
	require.False(t, client.Compress)

	client = provisioned(t, ``).plain.client
	require.Equal(t, 32, client.MaxIdlePerAddress) // Caddy's defaults
	require.Equal(t, 2*time.Minute, client.IdleTimeout)
	require.True(t, client.Compress)
}

// provisioned is the transport of a proxy with these settings.
func provisioned(t *testing.T, settings string) *transport {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	made, err := newTransport(ctx,
		&reverseproxy.Handler{TransportRaw: json.RawMessage(`{"protocol":"http"` + settings + `}`)})
	require.NoError(t, err)
	return made
}
