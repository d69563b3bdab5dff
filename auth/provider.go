// The module for Caddy's `authentication` handler.

package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
)

// DefaultMaxBody is how many bytes a body may have where no limit is configured.
const DefaultMaxBody = 64 << 20

// Provider lets Caddy's `authentication` handler admit callbacks by the same
// credentials as the gateway.
//
// The handler answers 401 to whatever is not let in, with the header fields that
// the gateway would send, such as Retry-After. Where `callback_secret` decides,
// the body is read up to the secret and handed on whole. A request without a
// body, such as the handshake of a WebSocket, cannot carry one. No credential is
// removed from the request.
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

// Authenticate implements [caddyauth.Authenticator]. A caller that is not let in
// is no error: those are of a technical kind, such as a body that cannot be read.
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
