package jsonfind

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/bodytest"
)

// secretPath is the place of the secret that a callback may carry.
var secretPath = []string{"metadata", "extra", "callback_secret"}

const secretLimit = 4096

var secretSearch = New(FirstCounts, Place{Path: secretPath, Limit: secretLimit})

// scanPieces gives text to a finder in pieces of the given size, 0 for one, up to
// the first event.
func scanPieces(text string, size int) (Event, string) {
	finder := secretSearch.Finder()
	if size == 0 {
		size = max(1, len(text))
	}
	for rest := []byte(text); len(rest) > 0; {
		n, event := finder.Scan(rest[:min(size, len(rest))])
		if event != More {
			return event, finder.Text
		}
		rest = rest[n:]
	}
	return More, ""
}

func TestFinderFollowsOnlyThePath(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for name, test := range map[string]struct {
		json  string
		found Event
		value string
	}{
		"compact": {`{"metadata":{"extra":{"callback_secret":"s3"}}}`, Found, "s3"},
		"pretty-printed": {
			"{\n  \"metadata\" : {\r\n\t\"extra\" : { \"callback_secret\" : \"s3\" }\n}\n}", Found, "s3",
		},
		"leading whitespace": {" \r\n\t" + `{"metadata":{"extra":{"callback_secret":"s3"}}}`,
			Found, "s3"},
		"metadata last": {
			`{"results":{"a":[1,{"b":"}"}]},"n":-1.5e+3,"t":true,"metadata":{"x":null,` +
				`"extra":{"y":"z","callback_secret":"s3"}}}`, Found, "s3",
		},
		"what follows is not looked at": {`{"metadata":{"extra":{"callback_secret":"s3"` + "garbage",
			Found, "s3"},
		"empty secret": {`{"metadata":{"extra":{"callback_secret":""}}}`, Found, ""},
		"escapes in names": {
			`{"meta\u0064ata":{"e\u0078tra":{"callback\u005fsecret":"s3"}}}`, Found, "s3",
		},
		"escapes in the value": {
			`{"metadata":{"extra":{"callback_secret":"\"\\\/\b\f\n\r\tA\u00e9\u20AC"}}}`, Found,
			"\"\\/\b\f\n\r\tAé€",
		},
		"surrogate pair": {`{"metadata":{"extra":{"callback_secret":"\ud83d\ude00"}}}`, Found, "😀"},
		"lone surrogates": {
			`{"metadata":{"extra":{"callback_secret":"\ud83d\ud83d\ude00\ude00x\ud83d"}}}`, Found,
			"\ufffd😀\ufffdx\ufffd",
		},
		"a half before another escape": {
			`{"metadata":{"extra":{"callback_secret":"\ud83d\n\ud83d\u0041"}}}`, Found, "\ufffd\n\ufffdA",
		},
		"raw UTF-8": {`{"metadata":{"extra":{"callback_secret":"é😀"}}}`, Found, "é😀"},
		"the first of a name decides": {
			`{"metadata":{"extra":{"callback_secret":"s3","callback_secret":"other"}}}`, Found, "s3",
		},
		"a decoy in a string": {
			`{"a":"{\"metadata\":{\"extra\":{\"callback_secret\":\"no\"}}}",` +
				`"metadata":{"extra":{"callback_secret":"s3"}}}`, Found, "s3",
		},
		"a decoy deeper": {
			`{"a":{"metadata":{"extra":{"callback_secret":"no"}}},` +
				`"metadata":{"extra":{"a":{"callback_secret":"no"},"callback_secret":"s3"}}}`, Found, "s3",
		},
		"a name on the wrong level": {
			`{"extra":{"callback_secret":"no"},"callback_secret":"no",` +
				`"metadata":{"callback_secret":"no","extra":{"callback_secret":"s3"}}}`, Found, "s3",
		},
		"a name that begins alike": {
			`{"metadata ":{},"metadat":{},"metadata_of_another_kind":{},` +
				`"metadata":{"extra":{"callback_secret_":"no","callback_secret":"s3"}}}`, Found, "s3",
		},
		"names that differ in case": {
			`{"Metadata":{"extra":{"callback_secret":"no"}},` +
				`"metadata":{"extra":{"callback_secret":"s3"}}}`, Found, "s3",
		},
		"nesting up to the limit": {`{"a":` + deep(maxDepth) +
			`,"metadata":{"extra":{"callback_secret":"s3"}}}`, Found, "s3"},

		"empty object":         {`{}`, End, ""},
		"no metadata":          {`{"a":1}`, End, ""},
		"no extra":             {`{"metadata":{}}`, End, ""},
		"no secret":            {`{"metadata":{"extra":{}}}`, End, ""},
		"metadata is an array": {`{"metadata":[{"extra":{"callback_secret":"s3"}}]}`, End, ""},
		"extra is a string":    {`{"metadata":{"extra":"callback_secret:s3"}}`, End, ""},
		"the first metadata has none": {
			`{"metadata":{},"metadata":{"extra":{"callback_secret":"s3"}}}`, End, "",
		},
		"the first extra has none": {
			`{"metadata":{"extra":{"a":1},"extra":{"callback_secret":"s3"}}}`, End, "",
		},
		"a number": {`{"metadata":{"extra":{"callback_secret":3}}}`, NotString, ""},
		"null":     {`{"metadata":{"extra":{"callback_secret":null}}}`, NotString, ""},
		"an array": {`{"metadata":{"extra":{"callback_secret":["s3"]}}}`, NotString, ""},
		"the first secret is no string": {
			`{"metadata":{"extra":{"callback_secret":1,"callback_secret":"s3"}}}`, NotString, "",
		},
		"longer than any secret": {`{"metadata":{"extra":{"callback_secret":"` +
			strings.Repeat("x", secretLimit+1), TooLong, ""},
		"longer than any secret, by escapes": {`{"metadata":{"extra":{"callback_secret":"` +
			strings.Repeat(`\u0041`, secretLimit/6+1), TooLong, ""},

		"nothing":                      {``, More, ""},
		"truncated in a name":          {`{"meta`, More, ""},
		"truncated in the secret":      {`{"metadata":{"extra":{"callback_secret":"s3`, More, ""},
		"truncated after an escape":    {`{"metadata":{"extra":{"callback_secret":"s3\`, More, ""},
		"truncated in what is skipped": {`{"a":[[`, More, ""},

		"byte order mark":         {"\ufeff{}", Malformed, ""},
		"array":                   {`[{"metadata":{"extra":{"callback_secret":"s3"}}}]`, Malformed, ""},
		"string":                  {`"metadata"`, Malformed, ""},
		"number":                  {`3`, Malformed, ""},
		"form":                    {`metadata[extra][callback_secret]=s3`, Malformed, ""},
		"sound":                   {"RIFF\x24\x9f\x00\x00WAVE", Malformed, ""},
		"name without quotes":     {`{metadata:{}}`, Malformed, ""},
		"no colon":                {`{"metadata"{}}`, Malformed, ""},
		"no value":                {`{"a":,"b":1}`, Malformed, ""},
		"no comma":                {`{"a":1 "b":2}`, Malformed, ""},
		"comma before the end":    {`{"a":1,}`, Malformed, ""},
		"comma first":             {`{,"a":1}`, Malformed, ""},
		"bracket of another kind": {`{"a":1]`, Malformed, ""},
		"a quote after a number":  {`{"a":1"`, Malformed, ""},
		"line break in the secret": {"{\"metadata\":{\"extra\":{\"callback_secret\":\"s\n3\"}}}",
			Malformed, ""},
		"NUL in a name":            {"{\"meta\x00data\":1}", Malformed, ""},
		"unknown escape":           {`{"\metadata":1}`, Malformed, ""},
		"a digit that is not":      {`{"\u00g0":1}`, Malformed, ""},
		"nesting beyond the limit": {`{"a":` + deep(maxDepth+1) + `}`, Malformed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{0, 1, 2, 3, 7, 64} {
				found, value := scanPieces(test.json, size)
				require.Equal(t, test.found, found, "in pieces of %d", size)
				if found == Found {
					require.Equal(t, test.value, value, "in pieces of %d", size)
				}
			}
		})
	}
}

func TestFinderSkipsLongStringsWhereverTheyAreCut(t *testing.T) {
	for name, text := range map[string]string{
		"plain":             strings.Repeat("0123456789", 10),
		"escaped quotes":    strings.Repeat("x", 30) + strings.Repeat(`\"`, 30),
		"escaped backslash": strings.Repeat("x", 30) + strings.Repeat(`\\`, 31),
		"mixed":             strings.Repeat(`012345678901234567\"\\\"}],{[\u0022`, 5),
		"escape last":       strings.Repeat("x", 61) + `\"`,
	} {
		t.Run(name, func(t *testing.T) {
			document := `{"a":"` + text + `","b":[{"c":"` + text + `"}],"metadata":{"extra":{"` + text +
				`":"` + text + `","callback_secret":"s3"}}}`
			require.True(t, json.Valid([]byte(document)))
			for size := range 130 {
				found, value := scanPieces(document, size)
				require.Equal(t, Found, found, "in pieces of %d", size)
				require.Equal(t, "s3", value, "in pieces of %d", size)
			}
		})
	}
}

func TestFinderKeepsLittleOfLongNamesAndValues(t *testing.T) {
	finder := secretSearch.Finder()
	scan := func(piece string) Event {
		_, event := finder.Scan([]byte(piece))
		return event
	}
	require.Equal(t, More, scan(`{"`))
	for range 1000 {
		require.Equal(t, More, scan(strings.Repeat("n", 999)))
	}
	require.Equal(t, More, scan(`":1,"`))
	require.LessOrEqual(t, cap(finder.text), 2048)

	finder = secretSearch.Finder()
	require.Equal(t, More, scan(`{"metadata":{"extra":{"callback_secret":"`))
	for range secretLimit / 8 {
		require.Equal(t, More, scan("12345678"))
	}
	require.Equal(t, TooLong, scan("x"))
	require.Equal(t, More, scan(strings.Repeat("x", 1<<20)))
	require.LessOrEqual(t, cap(finder.text), 2*secretLimit)
	require.Equal(t, More, scan(`\"`))
	require.Equal(t, End, scan(`"}}`))
}

// reference is the answer of encoding/json. judged is false for a document whose
// answer is not comparable: one that is not JSON, or that repeats a name of the
// path, of which encoding/json takes the last.
func reference(document []byte) (value string, found Event, judged bool) {
	var object map[string]json.RawMessage
	for level, name := range secretPath {
		if json.Unmarshal(document, &object) != nil || object == nil {
			if level == 0 {
				return "", Malformed, json.Valid(document)
			}
			return "", End, true
		}
		if repeated(document, name) {
			return "", 0, false
		}
		member, exists := object[name]
		if !exists {
			return "", End, true
		}
		document, object = member, nil
	}
	var text any
	if err := json.Unmarshal(document, &text); err != nil {
		return "", 0, false
	}
	value, isString := text.(string)
	switch {
	case !isString:
		return "", NotString, true
	}
	return value, Found, true
}

// repeated says whether an object has two members of a name.
func repeated(object []byte, name string) bool {
	decoder := json.NewDecoder(bytes.NewReader(object))
	_, _ = decoder.Token()
	count := 0
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return false
		}
		if token == name {
			count++
		}
		var skipped json.RawMessage
		if decoder.Decode(&skipped) != nil {
			return false
		}
	}
	return count > 1
}

func FuzzFinder(f *testing.F) {
	for _, seed := range []string{
		`{"metadata":{"extra":{"callback_secret":"s3"}}}`,
		`{"results":{"channels":[{"alternatives":[{"transcript":"a \"b\" c"}]}]},` +
			`"metadata":{"request_id":"x","extra":{"callback_secret":"\u0041\ud83d\ude00"}}}`,
		"{ \"a\" : [ 1, -2.5E+3, true, null ] ,\n\"metadata\" : {\"extra\":{}}}",
		`{"metadata":{"extra":{"callback_secret":"\ud83d\ud83d"}},"metadata":1}`,
		`{"metadata":{"extra":{"callback_secret":12}}}`,
		`[]`, `{`, `"`, `{"\`, `{"a":"\\"}`, `{"a":"\\\"","metadata":{}}`,
		"{\"metadata\":{\"extra\":{\"callback_secret\":\"\xff\xed\xa0\x80\"}}}",
		"{\"a\xff\":\"\xff\",\"metadata\":{\"extra\":{\"callback_secret\":\"x\"}}}",
	} {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(func(t *testing.T, document []byte, size uint8) {
		found, value := scanPieces(string(document), 0)
		inPieces, valueInPieces := scanPieces(string(document), int(size%17))
		require.Equal(t, found, inPieces)
		require.Equal(t, value, valueInPieces)
		if !json.Valid(document) {
			return
		}
		wantValue, want, judged := reference(document)
		if !judged {
			return
		}
		if found == TooLong {
			require.Greater(t, len(document), secretLimit)
			return
		}
		require.Equal(t, want, found)
		require.Equal(t, wantValue, value)
	})
}

func TestFinderFindsTheSecretInSentBodies(t *testing.T) {
	for name, body := range bodytest.Sent(t, "*.json") {
		t.Run(name, func(t *testing.T) {
			found, _ := scanPieces(string(body), 0)
			require.Equal(t, End, found)

			var document map[string]any
			require.NoError(t, json.Unmarshal(body, &document))
			metadata, _ := document["metadata"].(map[string]any)
			require.NotNil(t, metadata)
			metadata["extra"] = map[string]any{"callback_secret": "s3"}
			compact, err := json.Marshal(document)
			require.NoError(t, err)
			pretty, err := json.MarshalIndent(document, "", "  ")
			require.NoError(t, err)
			spliced := bytes.Replace(body, []byte(`"metadata": {`),
				[]byte(`"metadata": { "extra": {"callback_secret": "s3"},`), 1)
			for _, text := range [][]byte{compact, pretty, spliced} {
				if bytes.Equal(text, body) {
					continue // this one has no such spelling to splice into
				}
				for _, size := range []int{0, 1, 1000} {
					found, value := scanPieces(string(text), size)
					require.Equal(t, Found, found)
					require.Equal(t, "s3", value)
				}
			}
		})
	}
}

func BenchmarkFinder(b *testing.B) {
	body := bodytest.Transcript("s3")
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		finder := secretSearch.Finder()
		for rest := body; ; {
			n, event := finder.Scan(rest[:min(32<<10, len(rest))])
			if event != More {
				require.Equal(b, Found, event)
				break
			}
			rest = rest[n:]
		}
	}
}

// A string that is nothing but escapes must not cost more than its length.
func BenchmarkFinderEscapes(b *testing.B) {
	body := []byte(`{"a":"` + strings.Repeat(`\n`, 1<<19))
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		finder := secretSearch.Finder()
		if _, event := finder.Scan(body); event != More {
			b.Fatal("it ended")
		}
	}
}

// severalSearch looks for what says who a callback is.
var severalSearch = New(AllCount,
	Place{Path: []string{"metadata", "request_id"}, Limit: 64},
	Place{Path: []string{"request_id"}, Limit: 64},
	Place{Path: []string{"type"}, Limit: 8},
)

// tightSearch looks in the same places for strings that are hardly ever short enough.
var tightSearch = New(AllCount,
	Place{Path: []string{"metadata", "request_id"}, Limit: 3},
	Place{Path: []string{"request_id"}, Limit: 1},
	Place{Path: []string{"type"}, Limit: 0},
)

// events lists every event of a document, in pieces of a size.
func events(search *Search, document string, size int) []string {
	finder := search.Finder()
	var list []string
	for rest := []byte(document); ; {
		n, event := finder.Scan(rest[:min(size, len(rest))])
		rest = rest[n:]
		switch event {
		case More:
			if len(rest) == 0 {
				return append(list, "more")
			}
		case Found:
			list = append(list, fmt.Sprintf("%d %s", finder.Place, finder.Text))
		case TooLong:
			list = append(list, fmt.Sprintf("%d too long", finder.Place))
		case NotString:
			list = append(list, fmt.Sprintf("%d no string", finder.Place))
		case End:
			return append(list, "end")
		case Malformed:
			return append(list, "malformed")
		}
	}
}

func TestEveryMemberCountsWhereItIsAsked(t *testing.T) {
	for document, want := range map[string][]string{
		`{"type":"a","metadata":{"request_id":"b"},"request_id":"c"} garbage`: {"2 a", "0 b",
			"1 c", "end"},
		`{"metadata":{},"metadata":{"request_id":"b","request_id":"c"}}`:   {"0 b", "0 c", "end"},
		`{"metadata":[{"request_id":"no"}],"type":"123456789","type":"t"}`: {"2 too long", "2 t", "end"},
		`{"type":{"a":"\\"},"type":[1],"type":-1,"type":null,"type":"t"}`: {"2 no string",
			"2 no string", "2 no string", "2 no string", "2 t", "end"},
		`{"a":{"metadata":{"request_id":"no"}},"type":"t","request_id":"x`: {"2 t", "more"},
		`{"type":"\u007g"}`: {"malformed"},
		`{"type":}`:         {"malformed"},
	} {
		for size := 1; size < 20; size++ {
			require.Equal(t, want, events(severalSearch, document, size), "%s in pieces of %d",
				document, size)
		}
	}
}

func TestWhatIsBehindTheLimitOfAStringMakesNoDifference(t *testing.T) {
	for text, want := range map[string][]string{
		"a\nb":          {"2 too long", "1 b", "end"},
		"ab\n":          {"2 too long", "1 b", "end"},
		`a\z`:           {"2 too long", "1 b", "end"},
		`\"`:            {"2 too long", "1 b", "end"},
		`a\\`:           {"2 too long", "1 b", "end"},
		"a\xff":         {"2 too long", "1 b", "end"},
		"":              {"2 ", "1 b", "end"},
		"\n":            {"malformed"},
		"\x00and so on": {"malformed"},
	} {
		document := `{"type":"` + text + `","request_id":"b"}`
		for size := 1; size <= len(document); size++ {
			require.Equal(t, want, events(tightSearch, document, size), "%q in pieces of %d", document, size)
		}
	}
}

func TestTheFirstPlaceOfSeveralDoesNotEndTheSearch(t *testing.T) {
	search := New(FirstCounts,
		Place{Path: []string{"metadata", "extra", "secret"}, Limit: 64},
		Place{Path: []string{"extra", "secret"}, Limit: 64},
	)
	for document, want := range map[string][]string{
		`{"metadata":{"extra":{"secret":"a"}},"extra":{"secret":"b"},"extra":`: {"0 a",
			"1 b", "end"},
		`{"extra":{"secret":"b"},"metadata":{}`:                                     {"1 b", "end"},
		`{"extra":1,"extra":{"secret":"no"},"metadata":{"extra":{"secret":"a"},"x"`: {"0 a", "end"},
		`{"metadata":{"secret":"no","metadata":{"extra":{"secret":"no"}}},"extra":`: {"more"},
	} {
		for size := 1; size < 20; size++ {
			require.Equal(t, want, events(search, document, size), "%s in pieces of %d", document, size)
		}
	}
}

// referenceEvents lists the strings at the places with a real parser, of a
// document that is valid.
func referenceEvents(document []byte) []string {
	decoder := json.NewDecoder(bytes.NewReader(document))
	var list []string
	_, _ = decoder.Token()
	for decoder.More() {
		name, _ := decoder.Token()
		var value any
		if name == "metadata" {
			var raw json.RawMessage
			_ = decoder.Decode(&raw)
			list = append(list, referenceMetadata(raw)...)
			continue
		}
		_ = decoder.Decode(&value)
		text, isString := value.(string)
		for place, wanted := range []string{"", "request_id", "type"} {
			if name != wanted || place == 0 {
				continue
			}
			if !isString {
				text = "no string"
			}
			list = append(list, fmt.Sprintf("%d %s", place, text))
		}
	}
	return append(list, "end")
}

func referenceMetadata(object []byte) []string {
	decoder := json.NewDecoder(bytes.NewReader(object))
	if opening, _ := decoder.Token(); opening != json.Delim('{') {
		return nil
	}
	var list []string
	for decoder.More() {
		name, _ := decoder.Token()
		var value any
		_ = decoder.Decode(&value)
		if name != "request_id" {
			continue
		}
		text, isString := value.(string)
		if !isString {
			text = "no string"
		}
		list = append(list, fmt.Sprintf("0 %s", text))
	}
	return list
}

func FuzzFinderOfSeveralPlaces(f *testing.F) {
	for _, seed := range []string{
		`{"metadata":{"request_id":"abc","sha256":"x"},"results":{}}`,
		`{"err_code":"E","err_msg":"m","request_id":"abc"}`,
		"{\n  \"metadata\" : {\n    \"request_id\" :\t\"abc\"\r\n  }\n}",
		`{"metadata":{},"metadata":{"request_id":12,"request_id":"a\u0062c"},"type":"Results"}`,
		`{"type":{"type":"a\\"},"type":"\ud83d\ude00"}`,
		`{"metadata":[{"request_id":"no"}],"request\u005fid":"abc"}`,
		"{\"request_id\":\"a\nb\"}", "RIFF\x00\x00{\"request_id\":\"no\"}", `{"a":,"request_id":"no"}`,
		`{} {"request_id":"no"}`,
	} {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(func(t *testing.T, document []byte, size uint8) {
		got := events(severalSearch, string(document), len(document)+1)
		require.Equal(t, got, events(severalSearch, string(document), int(size%17)+1))
		require.Equal(t, events(tightSearch, string(document), len(document)+1),
			events(tightSearch, string(document), int(size%17)+1))
		object := bytes.HasPrefix(bytes.TrimLeft(document, " \t\r\n"), []byte("{"))
		if !object || !json.Valid(document) ||
			slices.ContainsFunc(got, func(s string) bool { return strings.HasSuffix(s, " too long") }) {
			return
		}
		require.Equal(t, referenceEvents(document), got)
	})
}
