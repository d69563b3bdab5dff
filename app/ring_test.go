package app

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestARingHasNoMoreThanTheLast(t *testing.T) {
	var r ring[int]
	require.Empty(t, r.newestFirst())
	for i := range 3*remembered + 7 {
		r.add(i)
		list := r.newestFirst()
		require.Len(t, list, min(i+1, remembered))
		for back, item := range list {
			require.Equal(t, i-back, item)
		}
	}
	require.LessOrEqual(t, cap(r.kept), 2*remembered)
}
