// Package e2e tests the whole loop over real sockets: a client speaks to the
// simulator, the simulator calls the gateway, the gateway calls a service. All
// of it is configured by Caddyfiles, as users do, and runs in a real Caddy; what
// has to be killed runs in a process of its own.
//
//	harness_test.go      Caddy, the services behind it, the wire in between
//	batch_test.go        callbacks by POST and PUT, and what becomes of failures
//	credentials_test.go  who gets through, and who never does
//	live_test.go         live streams by POST, ws and wss
//	kill_test.go         a stream's end at each of its four ends
package e2e
