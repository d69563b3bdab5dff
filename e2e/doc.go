// Package e2e tests everything together over real sockets: a client calls the
// simulator, the simulator calls the gateway, and the gateway calls a service. All of
// it is configured by Caddyfiles, as users do, and runs in a real Caddy; where that
// has to be killed, in a process of its own.
//
//	harness_test.go      Caddy, the services behind it, and the wire between them
//	batch_test.go        callbacks by POST and PUT, and what follows failures
//	credentials_test.go  which callbacks get through, and which never do
//	live_test.go         live streams by POST, ws and wss
//	kill_test.go         the end of a stream by each of its four ends
//	damage_test.go       a reload onto a damaged inbox
package e2e
