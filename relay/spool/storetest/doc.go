// Package storetest holds a store of messages to the contract of [spool.Store].
//
//	model.go   random operations on a store and on a model beside it must come to the same
//	memory.go  the model, which is also what tests of the inbox run on
package storetest
