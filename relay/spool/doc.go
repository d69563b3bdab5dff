// Package spool is the inbox: it keeps callbacks safe, so that they can be
// answered at once, and delivers them when their service can take them, in
// order and at least once. It knows no HTTP server and no engine that stores anything; what a
// delivery is, is a function that its user provides.
//
//	inbox := spool.New(store, spool.Hooks{})
//	release := inbox.Configure(spool.Config{
//		Routes: map[string]spool.RouteConfig{"calls": {Deliver: deliver}},
//	})
//	receipt, err := inbox.Accept(ctx, spool.Envelope{Route: "calls", …}, body)
//	…
//	release(ctx)
//	inbox.Close(ctx)
//
// There are two layers. [Inbox] decides when and whether to deliver: schedules and dead letters
// (attempt.go), which attempts are made now (turns.go), the pace (pace.go), the handover between
// configurations (configuration.go), what is encrypted of a message (encrypt.go). What comes in is in
// incoming.go, live streams message by message in stream.go. operator.go is what an operator can see
// and do. A [Store] keeps messages safe, in order, and apart from their duplicates. Its contract is in
// store.go, and as tests in the package storetest.
//
// What can be thought of alone has a package of its own:
//
//	health     what attempts show of a service, and what may be tried because of it
//	identity   which callbacks are the same, and which wait for each other
//	seal       the cryptography of what is encrypted
//	webhook    the signatures of deliveries
//	transfer   copying all of one store into another one
//	disk       the store where none is named
//	postgres   the store that several gateways share
//	storetest  the contract of a store as tests; storetest/memory is the simplest one
//
// # How to write a store
//
// Write a type with the methods of [Store], and hold it to the contract with one call in its tests:
//
//	storetest.Run(t, storetest.Factory{New: func(t testing.TB) func() spool.Store { … }})
//
// Then register a Caddy module in the namespace deepgram_callback.stores that implements
// [StoreModule]. `store <name> …` in a Caddyfile hands it what follows, if it implements
// caddyfile.Unmarshaler, and everything else (sharing the store between directives and
// over reloads, metrics, the admin API, the commands) finds it by its [StoreModule] alone.
//
// A store that also implements [Portable] can be copied from and to (portable.go), which the
// package transfer does.
//
// # Terms
//
//	inbox        what accepts callbacks and delivers them later; `spool` in the grammar and metrics
//	message      one accepted callback: its request, its body, and what became of it
//	route        the name under which a directive accepts messages and delivers them
//	store        what keeps messages; engine: a kind of store
//	lease        the right to deliver a message, which one holder has at a time
//	attempt      one try to deliver a message, which its service answers or not
//	settle       to say how a lease ended: delivered, to be tried again, dead
//	order key    equal for messages that must be delivered in the order in which they came
//	destination  where a message goes: a host and a path
//	fingerprint  what two copies of one callback have in common
//	dead letter  a message that is not tried any more, until somebody replays it
//	kept         delivered, and still there for a time
package spool
