package app

// Revoked reports whether the user for whom a callback was accepted was removed since: in the
// configuration in charge, no route of the callback's inbox that may deliver it has such a user.
// More cannot be known, since nothing but the user's name is kept of a credential.
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
