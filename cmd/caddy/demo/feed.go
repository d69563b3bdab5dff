package demo

// The app demo_feed plays people who use Deepgram: it submits recordings and
// texts to the simulator, and holds live calls, without end, so that there is
// something to look at behind the gateway. It is off unless a configuration
// names it.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/gorilla/websocket"
	"go.uber.org/zap"
)

// feedName is the name of the app and of the global option.
const feedName = "demo_feed"

// flaky is a path below which the service fails now and then.
const flaky = "/flaky"

// Feed is the app.
type Feed struct {
	// The URL of the simulator, such as `http://127.0.0.1:8090`.
	Simulator string `json:"simulator,omitempty"`

	// The API key to submit with.
	APIKey string `json:"api_key,omitempty"`

	// The URL of the gateway, with the credentials that callbacks have to
	// carry. The paths of the callbacks are appended to it.
	Callback string `json:"callback,omitempty"`

	logger *zap.Logger
	pace   pace
	stop   context.CancelFunc
	work   sync.WaitGroup
}

// pace is how long things take on average.
type pace struct {
	betweenBatches time.Duration
	betweenCalls   time.Duration
	call           time.Duration
	sound          time.Duration // the audio of a call in one message, exactly
}

// calls is how many calls are made at the same time.
const calls = 2

// CaddyModule returns the Caddy module information.
func (*Feed) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID: feedName,
		New: func() caddy.Module {
			return &Feed{pace: pace{
				betweenBatches: 5 * time.Second,
				betweenCalls:   5 * time.Second,
				call:           25 * time.Second,
				sound:          250 * time.Millisecond,
			}}
		},
	}
}

// parseFeed reads the global option:
//
//	demo_feed <simulator's URL> <api key> <gateway's URL with credentials>
func parseFeed(d *caddyfile.Dispenser, _ any) (any, error) {
	feed := new(Feed)
	d.Next()
	if !d.AllArgs(&feed.Simulator, &feed.APIKey, &feed.Callback) || d.NextBlock(0) {
		return nil, d.Errf("%s takes the URL of the simulator, an API key, and the URL of the gateway",
			feedName)
	}
	return httpcaddyfile.App{Name: feedName, Value: caddyconfig.JSON(feed, nil)}, nil
}

// Provision checks the URLs.
func (f *Feed) Provision(ctx caddy.Context) error {
	f.logger = ctx.Logger()
	for name, value := range map[string]string{"simulator": f.Simulator, "callback": f.Callback} {
		u, err := url.Parse(value)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			// The error does not show the URL, which may hold a password.
			return fmt.Errorf("%s: not a URL with http or https and a host", name)
		}
	}
	return nil
}

// Start begins to submit. A request that fails is not tried again.
func (f *Feed) Start() error {
	var ctx context.Context
	ctx, f.stop = context.WithCancel(context.Background())
	f.work.Go(func() { f.submitBatches(ctx) })
	for number := range calls {
		f.work.Go(func() { f.holdCalls(ctx, number) })
	}
	return nil
}

// Stop ends what is under way, and blocks until it has ended.
func (f *Feed) Stop() error {
	f.stop()
	f.work.Wait()
	return nil
}

// batch is a request whose result goes to a callback.
type batch struct {
	path        string
	query       string
	callback    string // the path of the callback
	contentType string
	body        func() []byte
}

// batches are submitted in turn.
var batches = []batch{
	{"/v1/listen", "encoding=mulaw&smart_format=true&tag=support", "/callback/recordings",
		"audio/basic", recording},
	{"/v1/read", "summarize=v2&topics=true&tag=support", "/callback/texts", "text/plain", text},
	{"/v1/listen", "encoding=mulaw&utterances=true&diarize=true&tag=sales", "/callback/recordings",
		"audio/basic", recording},
	{"/v1/listen", "encoding=mulaw&punctuate=true&tag=night", flaky + "/recordings",
		"audio/basic", recording},
	{"/v1/speak", "encoding=mulaw&tag=sales", "/callback/speech", "text/plain", text},
	{"/v1/listen", "encoding=mulaw&callback_method=put&extra=customer:42", "/callback/recordings",
		"audio/basic", recording},
	{"/v2/speak", "model=flux-alexis-en&tag=night", flaky + "/speech", "text/plain", text},
}

const bytesPerSecond = 8000 // of mulaw

// recording is silence of up to two minutes, for which the simulator makes up words.
func recording() []byte { return make([]byte, bytesPerSecond*(5+rand.IntN(115))) }

func text() []byte {
	return bytes.Repeat([]byte("The parcel has not arrived yet, and the customer called again. "),
		1+rand.IntN(10))
}

func (f *Feed) submitBatches(ctx context.Context) {
	for number := 0; pause(ctx, f.pace.betweenBatches); number++ {
		next := batches[number%len(batches)]
		if err := f.submit(ctx, next); err != nil && ctx.Err() == nil {
			f.logger.Warn("submitting failed", zap.String("path", next.path), zap.Error(err))
		}
	}
}

func (f *Feed) submit(ctx context.Context, b batch) error {
	target := f.Simulator + b.path + "?" + b.query + "&callback=" +
		url.QueryEscape(f.Callback+b.callback)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(b.body()))
	if err != nil {
		return withoutURL(err)
	}
	request.Header.Set("Authorization", "Token "+f.APIKey)
	request.Header.Set("Content-Type", b.contentType)
	client := http.Client{Timeout: 30 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		return withoutURL(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the simulator answered %d", response.StatusCode)
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

func (f *Feed) holdCalls(ctx context.Context, number int) {
	for ; pause(ctx, f.pace.betweenCalls); number++ {
		if err := f.hold(ctx, number); err != nil && ctx.Err() == nil {
			f.logger.Warn("a call failed", zap.Error(err))
		}
	}
}

// hold makes one call. The results of most calls go to a WebSocket, those of others
// are POSTed. Of a third of the calls the service is away now and then. Most callers hang up
// properly, some drop the line.
func (f *Feed) hold(ctx context.Context, number int) error {
	callback := f.Callback + "/live"
	if number%3 == 1 {
		callback = f.Callback + flaky + "/live"
	}
	if number%5 != 4 {
		callback = strings.Replace(callback, "http", "ws", 1)
	}
	target := strings.Replace(f.Simulator, "http", "ws", 1) +
		"/v1/listen?encoding=mulaw&punctuate=true&interim_results=true&vad_events=true" +
		"&utterance_end_ms=1000&callback=" + url.QueryEscape(callback)
	conn, response, err := websocket.DefaultDialer.DialContext(ctx, target,
		http.Header{"Authorization": {"Token " + f.APIKey}})
	if err != nil {
		if response != nil {
			return fmt.Errorf("the simulator answered %d", response.StatusCode)
		}
		return withoutURL(err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	// The simulator ends the call when the callback's WebSocket ends.
	over := make(chan error, 1)
	go func() {
		_, _, err := conn.ReadMessage() // nothing comes before the end
		over <- err
	}()

	sound := make([]byte, int(bytesPerSecond*f.pace.sound.Seconds()))
	for left := vary(f.pace.call); left > 0; left -= f.pace.sound {
		if err := conn.WriteMessage(websocket.BinaryMessage, sound); err != nil {
			return err
		}
		select {
		case err := <-over:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(f.pace.sound):
		}
	}
	if number%4 == 3 {
		return nil
	}
	if err := conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"CloseStream"}`)); err != nil {
		return err
	}
	select {
	case err = <-over:
	case <-ctx.Done():
		return ctx.Err()
	}
	if websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		return nil
	}
	return err
}

// vary returns a duration between half of and one and a half times another.
func vary(average time.Duration) time.Duration {
	return average/2 + rand.N(average)
}

// pause waits for about as long as average. It returns false if ctx has ended before
// that.
func pause(ctx context.Context, average time.Duration) bool {
	select {
	case <-time.After(vary(average)):
		return true
	case <-ctx.Done():
		return false
	}
}

// withoutURL removes the URL from an error, as it holds the callback's password.
func withoutURL(err error) error {
	var withURL *url.Error
	if errors.As(err, &withURL) {
		return withURL.Err
	}
	return err
}

func init() {
	caddy.RegisterModule(new(Feed))
	httpcaddyfile.RegisterGlobalOption(feedName, parseFeed)
}

// Interface guards
var (
	_ caddy.App         = (*Feed)(nil)
	_ caddy.Provisioner = (*Feed)(nil)
)
