// Texts in columns that are searched.

package record

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"unicode/utf8"
)

const maxColumnText = 200

// Clean returns a text as it is in a column to be searched: equal texts are equal there and others
// differ. The database takes no zero bytes, nothing that is not UTF-8, and indexes nothing that is
// long.
func Clean(text string) string {
	if len(text) <= maxColumnText && utf8.ValidString(text) && !strings.ContainsRune(text, 0) {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
	if len(text) > maxColumnText {
		text = strings.ToValidUTF8(text[:maxColumnText], "")
	}
	return text + "#" + hex.EncodeToString(sum[:16])
}

// RequestKey is what a request id is found by; 0 for none.
func RequestKey(id string) int64 {
	if id == "" {
		return 0
	}
	sum := sha256.Sum256([]byte(id))
	return int64(binary.BigEndian.Uint64(sum[:8]) | 1)
}
