package auth

import "github.com/caddyserver/caddy/v2"

// Usernames are those of all accounts, hashed and plain: what [Admission.User] can
// be.
func (p *Policy) Usernames() map[string]bool {
	repl := caddy.NewReplacer()
	names := make(map[string]bool)
	if p.BasicAuth != nil {
		for _, account := range p.BasicAuth.Accounts {
			names[repl.ReplaceAll(account.Username, "")] = true
		}
	}
	if p.BasicAuthPlain != nil {
		for _, account := range p.BasicAuthPlain.Accounts {
			names[repl.ReplaceAll(account.Username, "")] = true
		}
	}
	return names
}
