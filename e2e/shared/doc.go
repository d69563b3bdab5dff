// Package shared tests several gateways with one inbox in a real PostgreSQL: each gateway is a
// Caddy in a process of its own, which is killed, stopped and reloaded, and so is the database.
//
//	harness_test.go   gateways, the service behind them, and how they are called
//	gateways_test.go  what becomes of callbacks when a gateway dies, hangs, or shares work
//	database_test.go  the same for the database
//	streams_test.go   live streams into the inbox, over gateways
//	copy_test.go      an inbox on disk that moves into the database, and back
//	faults_test.go    all of that under load, in random order, and the failover to a standby
//	ledger_test.go    what it keeps count by
package shared
