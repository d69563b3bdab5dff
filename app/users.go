package app

// Revoked reports whether a callback in the inbox of a store was accepted for a user whom the
// configuration in charge has no more: none of the routes that deliver to where it goes. That is
// all that can be known, since nothing but a user name is kept of a credential.
func (p *Process) Revoked(identity, route, user string) bool {
	a := p.newest.Load()
	if a == nil || user == "" {
		return false
	}
	configured := false
	elsewhere := false // in another route of the inbox, which may have taken over from this one
	for _, r := range a.routes {
		if r.identity != identity {
			continue
		}
		if r.Name == route {
			configured = true
			if r.Users[user] {
				return false
			}
		}
		elsewhere = elsewhere || r.Users[user]
	}
	return configured || !elsewhere
}
