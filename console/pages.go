package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

//go:embed pages/*.html pages/*.css pages/*.js pages/*.svg
var embedded embed.FS

// A page is a file as it is served.
type page struct {
	content     []byte
	contentType string
	tag         string // for If-None-Match (RFC 9110, section 8.8.3)
}

// pages are the files by their path.
var pages = loadPages()

// types are those of the files, by their ending. They do not depend on the machine.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

func loadPages() map[string]page {
	loaded := make(map[string]page)
	files, err := fs.Glob(embedded, "pages/*")
	if err != nil {
		panic(err) // the pattern is malformed
	}
	for _, file := range files {
		content, err := embedded.ReadFile(file)
		if err != nil {
			panic(err) // it is in the binary
		}
		hash := sha256.Sum256(content)
		loaded["/"+path.Base(file)] = page{
			content:     content,
			contentType: types[path.Ext(file)],
			tag:         `"` + base64.RawURLEncoding.EncodeToString(hash[:12]) + `"`,
		}
	}
	loaded["/"] = loaded["/index.html"]
	return loaded
}

// servePage answers with a file. Browsers keep it, and ask each time whether it is still the same.
func servePage(w http.ResponseWriter, r *http.Request) error {
	if changes(r) {
		w.Header().Set("Allow", "GET, HEAD")
		return caddyhttp.Error(http.StatusMethodNotAllowed, errors.New("pages are only looked at"))
	}
	if asked := askedPath(r); !strings.HasSuffix(asked, "/") && strings.Trim(r.URL.Path, "/") == "" {
		return addSlash(w, asked)
	}
	file, ok := pages[r.URL.Path]
	if !ok {
		return caddyhttp.Error(http.StatusNotFound,
			errors.New("no such page; the path that the console is below has to be taken off, as handle_path does"))
	}
	w.Header().Set("Content-Type", file.contentType)
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("ETag", file.tag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file.content))
	return nil
}

// askedPath is the path before anything was taken off it.
func askedPath(r *http.Request) string {
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		return original.URL.Path
	}
	return r.URL.Path
}

// addSlash sends a browser to the directory of the pages, whose links are relative to it. The
// address is relative too: nobody here knows what is in front.
func addSlash(w http.ResponseWriter, asked string) error {
	w.Header().Set("Location", "./"+url.PathEscape(path.Base(asked))+"/")
	w.WriteHeader(http.StatusPermanentRedirect)
	return nil
}
