// The same checks for anyone's `authentication` handler.

package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
)

// DefaultMaxBody is the most bytes that a body may have where the configuration
// does not say: 64 MiB.
const DefaultMaxBody = 64 << 20

// Provider lets Caddy's `authentication` handler admit callbacks by the same
// credentials as the gateway.
//
// The handler answers 401 to whatever is not let in; the header fields that the
// gateway would send, Retry-After too, are set. Where `callback_secret` decides,
// the body is read up to the secret and handed on whole; a request without a
// body, such as the handshake of a WebSocket, is not let in by it. No credential
// is taken off the request.
type Provider struct {
	Policy

	// The largest body, in bytes, that is let in where `callback_secret` decides.
	// Default: 64 MiB.
	MaxBody int64 `json:"max_body,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Provider) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.authentication.providers.deepgram",
		New: func() caddy.Module { return new(Provider) },
	}
}

// Provision sets up the policy.
func (p *Provider) Provision(ctx caddy.Context) error {
	if p.MaxBody < 0 {
		return fmt.Errorf("max_body: %d is negative", p.MaxBody)
	}
	if p.MaxBody == 0 {
		p.MaxBody = DefaultMaxBody
	}
	return p.Policy.Provision(ctx)
}

// Authenticate says who the caller is. Its error is a technical one only: a body
// that cannot be read, a hash module that fails.
func (p *Provider) Authenticate(
	w http.ResponseWriter, r *http.Request,
) (caddyauth.User, bool, error) {
	admission, err := p.Admit(r)
	if err == nil && admission.BodySecret {
		err = p.verify(w, r)
	}
	if err == nil {
		return caddyauth.User{ID: admission.User}, true, nil
	}
	refusal, refused := errors.AsType[*Refusal](err)
	if !refused {
		return caddyauth.User{}, false, err
	}
	refusal.WriteHeaders(w.Header())
	switch refusal.Reason {
	case ReasonBasicAuthError, ReasonCallbackSecretStorage, ReasonBodyTimeout:
		return caddyauth.User{}, false, refusal
	}
	return caddyauth.User{}, false, nil
}

// verify leaves the whole body in the request even where the secret is wrong:
// another provider of the same handler may let the caller in.
func (p *Provider) verify(w http.ResponseWriter, r *http.Request) error {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	r.Body = http.MaxBytesReader(w, r.Body, p.MaxBody)
	replay, err := p.judge.verifyBody(w, r)
	r.Body = replay
	if replay.share.held > 0 {
		// not every handler closes the body that it was given
		context.AfterFunc(r.Context(), replay.release)
	}
	return err
}

// Interface guards
var (
	_ caddy.Provisioner       = (*Provider)(nil)
	_ caddyauth.Authenticator = (*Provider)(nil)
)
