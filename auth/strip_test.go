package auth

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const presigned = "X-Amz-Algorithm=AWS4-HMAC-SHA256&" +
	"X-Amz-Credential=AKIA%2F20261101%2Fus-east-1%2Fs3%2Faws4_request" +
	"&X-Amz-Date=20261101T000000Z&X-Amz-Expires=3600&X-Amz-SignedHeaders=host&x-id=PutObject&" +
	"X-Amz-Signature=0a%2b1b"

func TestStripTakesTheSecretOffTheQueryAndLeavesEveryOtherByte(t *testing.T) {
	p := mustProvision(t, `{"query_secret":{"parameter":"token","secrets":["s1-0123456789abcd"]}}`)
	for query, want := range map[string]string{
		"":                            "",
		"token=s1":                    "",
		"token":                       "",
		"token=":                      "",
		"token=s1&a=b":                "a=b",
		"a=b&token=s1":                "a=b",
		"a=b&token=s1&c=d":            "a=b&c=d",
		"token=s1&a=b&token=s2":       "a=b",
		"%74oken=s1&a":                "a",
		"to%6ben=s1":                  "",
		"z=1&a=%7e+%2B&&;=&token=s1&": "z=1&a=%7e+%2B&&;=&",
		"&&token=s1":                  "&",
		// no pair of its own: RFC 1866 separators are gone from URLs
		"a;token=s1":                     "a;token=s1",
		"tokens=s1&TOKEN=s1&x=token":     "tokens=s1&TOKEN=s1&x=token",
		"%zz&token=s1&%":                 "%zz&%",
		"token=s1=s1&=token":             "=token",
		presigned + "&token=s1":          presigned,
		"token=s1&" + presigned:          presigned,
		"a=b?token=s1&token=s1?&c=d?e=f": "a=b?token=s1&c=d?e=f",
	} {
		for _, form := range []string{"/path%2Fa", "http://gateway.example/path%2Fa"} {
			r := request("PUT", "/path%2Fa")
			r.URL.RawQuery = query
			r.RequestURI = form
			wantURI := form
			if query != "" {
				r.RequestURI += "?" + query
			}
			if want != "" {
				wantURI += "?" + want
			}
			p.Strip(r)
			require.Equal(t, want, r.URL.RawQuery, query)
			require.Equal(t, wantURI, r.RequestURI, query)
			require.Equal(t, "/path%2Fa", r.URL.EscapedPath())
		}
	}
}

func TestStripAlwaysRemovesAuthorization(t *testing.T) {
	for _, config := range []string{`{"anonymous":true}`, "{" + plainConfig + "}",
		`{"query_secret":{"parameter":"token","secrets":["s1-0123456789abcd"]}}`} {
		p := mustProvision(t, config)
		r := request("PUT", "/?a=b&&c")
		r.Header = http.Header{
			"Authorization": {"Basic eDp5", "Bearer z"},
			"Dg-Token":      {"51f1ad0b-4c3f-4d0e-9f61-0123456789a1"},
			"X":             {"y"},
		}
		p.Strip(r)
		require.Equal(t, http.Header{"Dg-Token": {"51f1ad0b-4c3f-4d0e-9f61-0123456789a1"}, "X": {"y"}},
			r.Header)
		require.Equal(t, "a=b&&c", r.URL.RawQuery)
		require.Equal(t, "/?a=b&&c", r.RequestURI)
	}
}

func TestStripLeavesAnEmptyQueryAsItCame(t *testing.T) {
	p := mustProvision(t, `{"query_secret":{"parameter":"token","secrets":["s1-0123456789abcd"]}}`)
	r := request("PUT", "/?")
	p.Strip(r)
	require.Equal(t, "/?", r.RequestURI)
	require.Equal(t, "/?", r.URL.RequestURI())
}

func FuzzStrip(f *testing.F) {
	for _, seed := range []string{"", "token=s1", "a=b&token=s1&c", "&&token=s1&",
		"%74oken=%73&a=%zz&;x;&b=;token=1", presigned + "&token=x"} {
		f.Add(seed, "token")
	}
	f.Add("a+b=c&a%20b=d", "a b")
	f.Add("+", "+")
	f.Fuzz(func(t *testing.T, query, parameter string) {
		c := &queryCheck{parameter: parameter}
		stripped := c.strip(query)

		// what is left is made of the very pairs that came, in their order
		left := strings.Split(stripped, "&")
		removed := 0
		for _, pair := range strings.Split(query, "&") {
			if len(left) > 0 && left[0] == pair && !named(pair, parameter) {
				left = left[1:]
				continue
			}
			require.True(t, named(pair, parameter), "%q was removed from %q", pair, query)
			removed++
		}
		if removed == 0 {
			require.Equal(t, query, stripped)
		}
		if len(left) > 0 {
			require.Equal(t, []string{""}, left, "nothing was left but %q", stripped)
		}

		before, _ := url.ParseQuery(query)
		after, _ := url.ParseQuery(stripped)
		delete(before, parameter)
		require.Equal(t, before, after)
		require.Equal(t, stripped, c.strip(stripped))
	})
}

// named says whether url.ParseQuery would find the parameter in a pair, or would
// if it did not refuse a semicolon.
func named(pair, parameter string) bool {
	name, _, _ := strings.Cut(pair, "=")
	name, err := url.QueryUnescape(name)
	return err == nil && name == parameter
}
