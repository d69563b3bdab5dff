package app

// Revoked reports whether a callback was accepted for a user whom the configuration in charge has
// no more: none of the routes that deliver to where it goes. That is all that can be known,
// since nothing but a user name is kept of a credential.
func Revoked(path, route, user string) bool {
	a := started.newest.Load()
	if a == nil || user == "" {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var configured bool
	var elsewhere bool // in another route of the inbox, which may have taken this one's callbacks over
	for _, r := range a.routes {
		if r.path != path {
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
