package spool

func isChild() bool { return false }
func runChild()     {}
