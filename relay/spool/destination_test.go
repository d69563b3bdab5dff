package spool

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDestinationsAreOfAHostAndAPath(t *testing.T) {
	d := destinationOf("h", "/c?x")
	require.Equal(t, d, destinationOf("H", "/c?y"))
	require.NotEqual(t, d, destinationOf("h", "/d"))
	require.NotEqual(t, d, destinationOf("i", "/c"))
	require.Equal(t, d.Host(), destinationOf("h", "/d").Host())
	require.NotEqual(t, d.Host(), destinationOf("i", "/c").Host())
}
