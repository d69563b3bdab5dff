// Package postgres is a store that several gateways share: an inbox in a PostgreSQL database. What
// one gateway accepted, any of them delivers, in order over all of them, and each callback is
// accepted once.
//
//	store, err := postgres.Open(ctx, "postgres://gateway:secret@db.example/inbox",
//		postgres.Options{Name: "gw1"})
//	inbox := spool.New(store, …)
//
// Here is what happens to lanes and leases, and with it the store. What can be understood without
// them has packages of its own:
//
//	database  connections, transactions, whether the database is there, how its tables come to be
//	record    how a message is written in a row, and which rows a filter selects
//	bodies    bodies on their way into the database, and out of it
//	counts    how much there is, and how much there may be
//	hints     how gateways tell each other what there is to deliver
//
// # What is in the database
//
// database/schema.sql says it, column by column. A message is a row of messages, whatever becomes of
// it, with a small body in it; a large one is in rows of pieces. Messages of one order key share a
// lane, one that waits for nobody has a lane of its own. A lane is a row that says which message is
// next, when it is due, and who has it leased. A gateway leases lanes; that is why it never looks
// at what is held back, and why order costs the same with a million messages in a lane as with one.
//
// # Who runs
//
//	Accept ──► acceptor ×2 ──► one statement for all senders that wait (accept.go, insert.go)
//	Lease, Settle ──► courier ──► one transaction for all that was settled and is asked for
//	                              (courier.go, load.go)
//	                  leases: renews what is leased, and says when it is lost (lease.go)
//	                  hints: tells other gateways, is told by them, and polls (package hints)
//	                  upkeep: is seen, and removes what nobody needs (upkeep.go)
//	                  database: looks for it while it is away (package database)
//	everything else ──► the caller's own goroutine (find.go, operate.go, copy.go)
//
// # Order
//
// A message gets its id under the lock of its lane, and later ones get higher ids; so messages of a
// lane are committed in the order of their ids. Whoever leases a lane gets its message with the
// lowest id that is pending. When the lease ends, the lane says what is next. One that was made for
// a duplicate is told what is next in it, or goes, when the duplicate is answered. That a lane says
// too much is possible (the gateway died before that, or its message was dropped): then it is found
// empty and goes. That it says too little is not: it is there as long as a message in it is pending.
//
// Whoever locks several lanes does so in the order of their primary key, before anything else but
// uploads; fingerprints come after lanes, then messages, and what is counted comes last. So no two
// transactions wait for each other.
//
// # Leases
//
// A lease is a claim, a random number, in its lane, and the time at which the lane is due again, by
// the database's clock. It is put off three times in the lease time. A settlement names its claim:
// where the lane has another one by now, nothing happens. A gateway that cannot reach the database
// gives a lease up when it is over by its own clock, which began to count before the database's.
//
// # Plans
//
// PostgreSQL plans with statistics, which know nothing of a young table, or one that was full a
// minute ago. Each statement here has one index that gives it what it needs in the order in which
// it needs it, and asks for a range over the columns of that index, which no other one serves; and
// the settings of a transaction keep the planner from reading whole tables.
//
// # Absence
//
// While the database is away everything fails at once, and one goroutine looks for it. What was
// settled stays in memory, and is recorded when it is back, unless the lease has gone to another by
// then. A commit of which nobody knows whether it took place is a refusal; the sender's repetition
// finds the fingerprint, if it did. So is one that did not reach a synchronous standby because
// somebody cancelled it.
//
// # Poolers
//
// Nothing relies on the session: settings are for one transaction, statements are only prepared
// where the process that answers is the one that was connected to. Behind PgBouncer in transaction
// mode everything works but hints; then gateways find what others accepted by looking, more than
// twice a second. Tested with PostgreSQL 15, and PgBouncer 1.18 before it.
package postgres
