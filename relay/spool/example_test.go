package spool_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest/memory"
)

// An inbox answers a sender once a callback is safe in its store, and delivers it when it can. A
// program would open a store that keeps things, such as disk.Open.
func Example() {
	delivered := make(chan string)
	inbox := spool.New(memory.NewPlace().Open(), spool.Hooks{})
	release := inbox.Configure(spool.Config{Routes: map[string]spool.RouteConfig{
		"calls": {
			Deliver: func(_ context.Context, msg *spool.Message, body spool.Body) spool.Result {
				text, err := io.ReadAll(body)
				if err != nil {
					return spool.Result{Err: err}
				}
				delivered <- fmt.Sprintf("%s %s: %s", msg.Method, msg.URI, text)
				return spool.Result{Status: http.StatusOK}
			},
		},
	}})

	ctx := context.Background()
	receipt, err := inbox.Accept(ctx, spool.Envelope{
		Route: "calls", Method: http.MethodPost, URI: "/callback", Host: "callbacks.example.com",
	}, strings.NewReader("the transcript"))
	fmt.Println(receipt.Duplicate, receipt.Size, err)
	fmt.Println(<-delivered)

	release(ctx)
	fmt.Println(inbox.Close(ctx))
	// Output:
	// false 14 <nil>
	// POST /callback: the transcript
	// <nil>
}
