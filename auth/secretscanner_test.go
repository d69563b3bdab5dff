package auth

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// scanPieces gives text to a scanner in pieces of the given size, 0 for one.
func scanPieces(text string, size int) (finding, string) {
	var scanner secretScanner
	if size == 0 {
		size = max(1, len(text))
	}
	for rest := []byte(text); len(rest) > 0; {
		piece := rest[:min(size, len(rest))]
		rest = rest[len(piece):]
		if found := scanner.scan(piece); found != searching {
			return found, string(scanner.value)
		}
	}
	return searching, ""
}

func TestSecretScannerFollowsOnlyThePath(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for name, test := range map[string]struct {
		json  string
		found finding
		value string
	}{
		"compact":                       {`{"metadata":{"extra":{"callback_secret":"s3"}}}`, secretFound, "s3"},
		"pretty-printed":                {"{\n  \"metadata\" : {\r\n\t\"extra\" : { \"callback_secret\" : \"s3\" }\n}\n}", secretFound, "s3"},
		"leading whitespace":            {" \r\n\t" + `{"metadata":{"extra":{"callback_secret":"s3"}}}`, secretFound, "s3"},
		"metadata last":                 {`{"results":{"a":[1,{"b":"}"}]},"n":-1.5e+3,"t":true,"metadata":{"x":null,"extra":{"y":"z","callback_secret":"s3"}}}`, secretFound, "s3"},
		"what follows is not looked at": {`{"metadata":{"extra":{"callback_secret":"s3"` + "garbage", secretFound, "s3"},
		"empty secret":                  {`{"metadata":{"extra":{"callback_secret":""}}}`, secretFound, ""},
		"escapes in names":              {`{"meta\u0064ata":{"e\u0078tra":{"callback\u005fsecret":"s3"}}}`, secretFound, "s3"},
		"escapes in the value":          {`{"metadata":{"extra":{"callback_secret":"\"\\\/\b\f\n\r\tA\u00e9\u20AC"}}}`, secretFound, "\"\\/\b\f\n\r\tAé€"},
		"surrogate pair":                {`{"metadata":{"extra":{"callback_secret":"\ud83d\ude00"}}}`, secretFound, "😀"},
		"lone surrogates":               {`{"metadata":{"extra":{"callback_secret":"\ud83d\ud83d\ude00\ude00x\ud83d"}}}`, secretFound, "\ufffd😀\ufffdx\ufffd"},
		"a half before another escape":  {`{"metadata":{"extra":{"callback_secret":"\ud83d\n\ud83d\u0041"}}}`, secretFound, "\ufffd\n\ufffdA"},
		"raw UTF-8":                     {`{"metadata":{"extra":{"callback_secret":"é😀"}}}`, secretFound, "é😀"},
		"the first of a name decides":   {`{"metadata":{"extra":{"callback_secret":"s3","callback_secret":"other"}}}`, secretFound, "s3"},
		"a decoy in a string":           {`{"a":"{\"metadata\":{\"extra\":{\"callback_secret\":\"no\"}}}","metadata":{"extra":{"callback_secret":"s3"}}}`, secretFound, "s3"},
		"a decoy deeper":                {`{"a":{"metadata":{"extra":{"callback_secret":"no"}}},"metadata":{"extra":{"a":{"callback_secret":"no"},"callback_secret":"s3"}}}`, secretFound, "s3"},
		"a name on the wrong level":     {`{"extra":{"callback_secret":"no"},"callback_secret":"no","metadata":{"callback_secret":"no","extra":{"callback_secret":"s3"}}}`, secretFound, "s3"},
		"a name that begins alike":      {`{"metadata ":{},"metadat":{},"metadata_of_another_kind":{},"metadata":{"extra":{"callback_secret_":"no","callback_secret":"s3"}}}`, secretFound, "s3"},
		"names that differ in case":     {`{"Metadata":{"extra":{"callback_secret":"no"}},"metadata":{"extra":{"callback_secret":"s3"}}}`, secretFound, "s3"},
		"nesting up to the limit":       {`{"a":` + deep(maxSkippedDepth) + `,"metadata":{"extra":{"callback_secret":"s3"}}}`, secretFound, "s3"},

		"empty object":                       {`{}`, secretMissing, ""},
		"no metadata":                        {`{"a":1}`, secretMissing, ""},
		"no extra":                           {`{"metadata":{}}`, secretMissing, ""},
		"no secret":                          {`{"metadata":{"extra":{}}}`, secretMissing, ""},
		"metadata is an array":               {`{"metadata":[{"extra":{"callback_secret":"s3"}}]}`, secretMissing, ""},
		"extra is a string":                  {`{"metadata":{"extra":"callback_secret:s3"}}`, secretMissing, ""},
		"the first metadata has none":        {`{"metadata":{},"metadata":{"extra":{"callback_secret":"s3"}}}`, secretMissing, ""},
		"the first extra has none":           {`{"metadata":{"extra":{"a":1},"extra":{"callback_secret":"s3"}}}`, secretMissing, ""},
		"a number":                           {`{"metadata":{"extra":{"callback_secret":3}}}`, secretUnusable, ""},
		"null":                               {`{"metadata":{"extra":{"callback_secret":null}}}`, secretUnusable, ""},
		"an array":                           {`{"metadata":{"extra":{"callback_secret":["s3"]}}}`, secretUnusable, ""},
		"the first secret is no string":      {`{"metadata":{"extra":{"callback_secret":1,"callback_secret":"s3"}}}`, secretUnusable, ""},
		"longer than any secret":             {`{"metadata":{"extra":{"callback_secret":"` + strings.Repeat("x", maxCredential+1), secretUnusable, ""},
		"longer than any secret, by escapes": {`{"metadata":{"extra":{"callback_secret":"` + strings.Repeat(`\u0041`, maxCredential+1), secretUnusable, ""},

		"nothing":                      {``, searching, ""},
		"truncated in a name":          {`{"meta`, searching, ""},
		"truncated in the secret":      {`{"metadata":{"extra":{"callback_secret":"s3`, searching, ""},
		"truncated after an escape":    {`{"metadata":{"extra":{"callback_secret":"s3\`, searching, ""},
		"truncated in what is skipped": {`{"a":[[`, searching, ""},

		"byte order mark":          {"\ufeff{}", malformed, ""},
		"array":                    {`[{"metadata":{"extra":{"callback_secret":"s3"}}}]`, malformed, ""},
		"string":                   {`"metadata"`, malformed, ""},
		"number":                   {`3`, malformed, ""},
		"form":                     {`metadata[extra][callback_secret]=s3`, malformed, ""},
		"sound":                    {"RIFF\x24\x9f\x00\x00WAVE", malformed, ""},
		"name without quotes":      {`{metadata:{}}`, malformed, ""},
		"no colon":                 {`{"metadata"{}}`, malformed, ""},
		"no value":                 {`{"a":,"b":1}`, malformed, ""},
		"no comma":                 {`{"a":1 "b":2}`, malformed, ""},
		"comma before the end":     {`{"a":1,}`, malformed, ""},
		"comma first":              {`{,"a":1}`, malformed, ""},
		"bracket of another kind":  {`{"a":1]`, malformed, ""},
		"a quote after a number":   {`{"a":1"`, malformed, ""},
		"line break in the secret": {"{\"metadata\":{\"extra\":{\"callback_secret\":\"s\n3\"}}}", malformed, ""},
		"NUL in a name":            {"{\"meta\x00data\":1}", malformed, ""},
		"unknown escape":           {`{"\metadata":1}`, malformed, ""},
		"a digit that is not":      {`{"\u00g0":1}`, malformed, ""},
		"nesting beyond the limit": {`{"a":` + deep(maxSkippedDepth+1) + `}`, malformed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{0, 1, 2, 3, 7, 64} {
				found, value := scanPieces(test.json, size)
				require.Equal(t, test.found, found, "in pieces of %d", size)
				if found == secretFound {
					require.Equal(t, test.value, value, "in pieces of %d", size)
				}
			}
		})
	}
}

func TestSecretScannerSkipsLongStringsWhereverTheyAreCut(t *testing.T) {
	for name, text := range map[string]string{
		"plain":             strings.Repeat("0123456789", 10),
		"escaped quotes":    strings.Repeat("x", 30) + strings.Repeat(`\"`, 30),
		"escaped backslash": strings.Repeat("x", 30) + strings.Repeat(`\\`, 31),
		"mixed":             strings.Repeat(`012345678901234567\"\\\"}],{[\u0022`, 5),
		"escape last":       strings.Repeat("x", 61) + `\"`,
	} {
		t.Run(name, func(t *testing.T) {
			document := `{"a":"` + text + `","b":[{"c":"` + text + `"}],"metadata":{"extra":{"` + text + `":"` + text + `","callback_secret":"s3"}}}`
			require.True(t, json.Valid([]byte(document)))
			for size := range 130 {
				found, value := scanPieces(document, size)
				require.Equal(t, secretFound, found, "in pieces of %d", size)
				require.Equal(t, "s3", value, "in pieces of %d", size)
			}
		})
	}
}

func TestSecretScannerKeepsLittleOfLongNamesAndValues(t *testing.T) {
	var scanner secretScanner
	require.Equal(t, searching, scanner.scan([]byte(`{"`+strings.Repeat("n", 1<<20)+`":1,"`)))
	require.LessOrEqual(t, cap(scanner.value), 32)

	scanner = secretScanner{}
	require.Equal(t, secretUnusable, scanner.scan([]byte(`{"metadata":{"extra":{"callback_secret":"`+strings.Repeat("x", 1<<20))))
	require.LessOrEqual(t, cap(scanner.value), 2*maxCredential)
}

// reference is the answer of encoding/json. judged is false for a document whose
// answer is not comparable: one that is not JSON, or that repeats a name of the
// path, of which encoding/json takes the last.
func reference(document []byte) (value string, found finding, judged bool) {
	var object map[string]json.RawMessage
	for level, name := range secretPath {
		if json.Unmarshal(document, &object) != nil || object == nil {
			if level == 0 {
				return "", malformed, json.Valid(document)
			}
			return "", secretMissing, true
		}
		if repeated(document, name) {
			return "", 0, false
		}
		member, exists := object[name]
		if !exists {
			return "", secretMissing, true
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
		return "", secretUnusable, true
	case len(value) > maxCredential:
		return "", 0, false // where it is not UTF-8, it has grown
	}
	return value, secretFound, true
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

func FuzzSecretScanner(f *testing.F) {
	for _, seed := range []string{
		`{"metadata":{"extra":{"callback_secret":"s3"}}}`,
		`{"results":{"channels":[{"alternatives":[{"transcript":"a \"b\" c"}]}]},"metadata":{"request_id":"x","extra":{"callback_secret":"\u0041\ud83d\ude00"}}}`,
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
		require.Equal(t, want, found)
		if found == secretFound {
			// encoding/json replaces what is not UTF-8, as does this conversion
			require.Equal(t, wantValue, string([]rune(value)))
		}
	})
}

// realBodies are callbacks as the vendor's services sent them, where they are at
// hand.
func realBodies(t testing.TB) map[string][]byte {
	const folder = "../../shared/callbacks"
	names, err := filepath.Glob(filepath.Join(folder, "*.json"))
	require.NoError(t, err)
	if len(names) == 0 {
		t.Skip("the real callback bodies are not here")
	}
	bodies := make(map[string][]byte)
	for _, name := range names {
		bodies[filepath.Base(name)], err = os.ReadFile(name)
		require.NoError(t, err)
	}
	return bodies
}

func TestSecretScannerFindsTheSecretInRealBodies(t *testing.T) {
	for name, body := range realBodies(t) {
		t.Run(name, func(t *testing.T) {
			found, _ := scanPieces(string(body), 0)
			require.Equal(t, secretMissing, found)

			var document map[string]any
			require.NoError(t, json.Unmarshal(body, &document))
			metadata, _ := document["metadata"].(map[string]any)
			require.NotNil(t, metadata)
			metadata["extra"] = map[string]any{"callback_secret": "s3"}
			compact, err := json.Marshal(document)
			require.NoError(t, err)
			pretty, err := json.MarshalIndent(document, "", "  ")
			require.NoError(t, err)
			spliced := bytes.Replace(body, []byte(`"metadata": {`), []byte(`"metadata": { "extra": {"callback_secret": "s3"},`), 1)
			for _, text := range [][]byte{compact, pretty, spliced} {
				if bytes.Equal(text, body) {
					continue // this one has no such spelling to splice into
				}
				for _, size := range []int{0, 1, 1000} {
					found, value := scanPieces(string(text), size)
					require.Equal(t, secretFound, found)
					require.Equal(t, "s3", value)
				}
			}
		})
	}
}

// transcript is a body of about a megabyte as pre-recorded audio yields it, with
// the metadata after the results.
func transcript(secret string) []byte {
	var b bytes.Buffer
	b.WriteString(`{"results":{"channels":[{"alternatives":[{"transcript":"`)
	for range 10_000 {
		b.WriteString("never gonna give you up ")
	}
	b.WriteString(`","confidence":0.9987,"words":[`)
	for i := range 8_000 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"word":"never","start":%d.24,"end":%d.56,"confidence":0.998,"punctuated_word":"Never,"}`, i, i)
	}
	fmt.Fprintf(&b, `]}]}]},"metadata":{"request_id":"0c5f5c2e","extra":{"callback_secret":%q}}}`, secret)
	return b.Bytes()
}

func BenchmarkSecretScanner(b *testing.B) {
	body := transcript("s3")
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		var scanner secretScanner
		for rest := body; len(rest) > 0; {
			piece := rest[:min(32<<10, len(rest))]
			rest = rest[len(piece):]
			if found := scanner.scan(piece); found != searching {
				require.Equal(b, secretFound, found)
				break
			}
		}
	}
}

// A string that is nothing but escapes must not cost more than its length.
func BenchmarkSecretScannerEscapes(b *testing.B) {
	body := []byte(`{"a":"` + strings.Repeat(`\n`, 1<<19))
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		var scanner secretScanner
		if scanner.scan(body) != searching {
			b.Fatal("it ended")
		}
	}
}
