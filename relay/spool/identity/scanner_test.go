package identity

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func scanRequestID(body []byte, part int) string {
	s := NewScanner()
	for len(body) > 0 {
		n := min(part, len(body))
		_, _ = s.Write(body[:n])
		body = body[n:]
	}
	return s.RequestID()
}

var scanCases = []struct{ name, body, want string }{
	{"result", `{"metadata":{"request_id":"abc","sha256":"x"},"results":{}}`, "abc"},
	{"error report", `{"err_code":"E","err_msg":"m","request_id":"abc"}`, "abc"},
	{
		"metadata last",
		`{"channel":{"alternatives":[{"transcript":"","words":[]}]},"metadata":{"model_info":{"name":"g"},"request_id":"abc"}}`,
		"abc",
	},
	{"pretty", "{\n  \"metadata\" : {\n    \"request_id\" :\t\"abc\"\r\n  }\n}", "abc"},
	{"utterance end", `{"type":"UtteranceEnd","channel":[0,1],"last_word_end":2.1}`, ""},
	{
		"deeper",
		`{"results":{"metadata":{"request_id":"no"},"request_id":"no"},"metadata":{"request_id":"abc"}}`,
		"abc",
	},
	{"in an array", `[{"metadata":{"request_id":"no"}}]`, ""},
	{"metadata is an array", `{"metadata":[{"request_id":"no"}],"request_id":"abc"}`, "abc"},
	{
		"in a text",
		`{"transcript":"\"metadata\":{\"request_id\":\"no\"}","metadata":{"request_id":"abc"}}`,
		"abc",
	},
	{"text with backslashes at its end", `{"a":{"b":"\\"},"metadata":{"request_id":"abc"}}`, "abc"},
	{"escaped", `{"metadata":{"request\u005fid":"a\u0062c"}}`, "abc"},
	{"not ASCII", `{"metadata":{"request_id":"äß𝄞"}}`, "äß𝄞"},
	{"not a string", `{"request_id":17,"metadata":{"request_id":"abc"}}`, "abc"},
	{"empty", `{"request_id":"","metadata":{"request_id":"abc"}}`, "abc"},
	{"null", `{"metadata":null,"request_id":"abc"}`, "abc"},
	{
		"literals and numbers",
		`{"a":true,"b":-1.5e3 ,"c":null,"d":[1,2,{"x":"}"}],"request_id":"abc"}`,
		"abc",
	},
	{
		"too long",
		`{"request_id":"` + strings.Repeat(
			"x",
			maxRequestIDLength+1,
		) + `","metadata":{"request_id":"abc"}}`,
		"abc",
	},
	{
		"damaged where it is too long",
		`{"request_id":"` + strings.Repeat("x", maxRequestIDLength+1) + "\n" +
			`","metadata":{"request_id":"abc"}}`,
		"abc",
	},
	{"a type that is damaged", "{\"type\":\"a\n\",\"request_id\":\"abc\"}", "abc"},
	{
		"as long as can be",
		`{"request_id":"` + strings.Repeat("x", maxRequestIDLength) + `"}`,
		strings.Repeat("x", maxRequestIDLength),
	},
	{"long key", `{"` + strings.Repeat("k", 500) + `":1,"request_id":"abc"}`, "abc"},
	{"cut off", `{"metadata":{"request_id":"ab`, ""},
	{"control character", "{\"request_id\":\"a\nb\"}", ""},
	{"audio", "RIFF\x00\x00{\"request_id\":\"no\"}", ""},
	{"nothing", "", ""},
	{"empty object", "{}", ""},
	{"key without a value", `{"request_id"}`, ""},
	{"comma instead of a value", `{"a":,"request_id":"no"}`, ""},
	{"after the end", `{} {"request_id":"no"}`, ""},
}

func TestRequestIDScanner(t *testing.T) {
	for _, c := range scanCases {
		for _, part := range []int{1, 2, 3, 7, 1 << 20} {
			require.Equal(t, c.want, scanRequestID([]byte(c.body), part), "%s in parts of %d", c.name, part)
		}
	}
}

func TestRequestIDScannerFindsTheIDsOfTheSamples(t *testing.T) {
	samples, err := filepath.Glob("testdata/bodies/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, samples)
	for _, sample := range samples {
		body, err := os.ReadFile(sample)
		require.NoError(t, err)
		var parsed struct {
			RequestID string `json:"request_id"`
			Metadata  struct {
				RequestID string `json:"request_id"`
			} `json:"metadata"`
		}
		require.NoError(t, json.Unmarshal(body, &parsed))
		require.Equal(t, parsed.Metadata.RequestID+parsed.RequestID, scanRequestID(body, 100), sample)
	}
}

// referenceRequestID finds the id with a real parser.
func referenceRequestID(body []byte) string {
	decoder := json.NewDecoder(bytes.NewReader(body))
	type level struct {
		object bool
		key    string
		isKey  bool
	}
	var stack []level
	next := func() { // after a value
		if n := len(stack); n > 0 && stack[n-1].object {
			stack[n-1].isKey = true
		}
	}
	for {
		token, err := decoder.Token()
		if err != nil {
			return ""
		}
		n := len(stack)
		if n == 0 && token != json.Delim('{') {
			return ""
		}
		switch token := token.(type) {
		case json.Delim:
			switch token {
			case '{', '[':
				stack = append(stack, level{object: token == '{', isKey: token == '{'})
			default:
				stack = stack[:n-1]
				if n == 1 {
					return ""
				}
				next()
			}
			continue
		case string:
			if top := &stack[n-1]; top.object && top.isKey {
				top.key, top.isKey = token, false
				continue
			}
			interesting := n == 1 || n == 2 && stack[0].key == "metadata" && stack[1].object
			if interesting && stack[n-1].key == "request_id" && token != "" {
				return token
			}
		}
		next()
	}
}

func FuzzRequestIDScanner(f *testing.F) {
	for i, c := range scanCases {
		f.Add([]byte(c.body), i%9+1)
	}
	f.Fuzz(func(t *testing.T, body []byte, part int) {
		if part <= 0 {
			part = 1
		}
		got := scanRequestID(body, part)
		require.Equal(t, got, scanRequestID(body, len(body)+1), "how it is cut up makes no difference")
		if !json.Valid(body) {
			return
		}
		want := referenceRequestID(body)
		if len(body) > maxRequestIDLength &&
			(len(want) > maxRequestIDLength || bytes.ContainsRune(body, '\\')) {
			return // the id may be too long in the body's own spelling
		}
		require.Equal(t, want, got)
	})
}

func BenchmarkRequestIDAtTheEnd(b *testing.B) {
	body := []byte(
		`{"channel":{"alternatives":[{"words":[` + strings.Repeat(
			`{"word":"the","start":17.72,"end":17.88,"confidence":0.999},`,
			250,
		) +
			`{}]}]},"metadata":{"request_id":"4b21fb93-0ece-46c8-a7c8-05709"}}`,
	)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		var s Scanner
		_, _ = s.Write(body)
		if s.RequestID() == "" {
			b.Fatal("not found")
		}
	}
}
