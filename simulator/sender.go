package simulator

// Callbacks by HTTP: an attempt, and the attempts of a batch callback.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// callback is one result on its way to a callback URL.
type callback struct {
	requestID   string
	kind        string
	method      string
	target      *callbackURL
	keyID       string // the dg-token; empty for none
	contentType string
	body        []byte
}

// sender delivers callbacks by HTTP. It keeps nothing of the configuration that it is for,
// and so can outlive it.
type sender struct {
	transport  http.RoundTripper
	retries    int
	retryDelay time.Duration
	timeout    time.Duration
	duplicate  bool
	uploadRate int64
	logger     atomic.Pointer[zap.Logger]
}

// deliver waits for the latency, and then makes attempts until the receiver answers 200 to
// 299 or there are no retries left. An address that may not be called is not tried again.
// deliver blocks for all of that time.
func (s *sender) deliver(ctx context.Context, latency time.Duration, cb *callback) error {
	err := wait(ctx, latency)
	for number := 1; err == nil; number++ {
		if err = s.attempt(ctx, cb, number); err == nil {
			return s.repeat(ctx, cb)
		}
		if number > s.retries || errors.Is(err, errAddress) {
			break
		}
		err = wait(ctx, s.retryDelay)
	}
	s.logger.Load().Error("callback lost", append(cb.fields(), zap.Error(err))...)
	return err
}

// once makes a single attempt, as for the results of live streams: the vendor does not
// document any retries of those, and a receiver should be tried with the harder case.
func (s *sender) once(ctx context.Context, cb *callback) error {
	if err := s.attempt(ctx, cb, 1); err != nil {
		return err
	}
	return s.repeat(ctx, cb)
}

// repeat plays the fault `duplicate`.
func (s *sender) repeat(ctx context.Context, cb *callback) error {
	if !s.duplicate {
		return nil
	}
	return s.attempt(ctx, cb, 1)
}

// attempt sends a callback once, and logs the outcome.
func (s *sender) attempt(ctx context.Context, cb *callback, number int) error {
	start := time.Now()
	status, err := s.send(ctx, cb)
	fields := append(cb.fields(), zap.Int("attempt", number),
		zap.Duration("duration", time.Since(start)))
	if status != 0 {
		fields = append(fields, zap.Int("status", status))
	}
	if err != nil {
		s.logger.Load().Warn("callback attempt failed", append(fields, zap.Error(err))...)
		return err
	}
	s.logger.Load().Info("callback delivered", fields...)
	return nil
}

func (s *sender) send(ctx context.Context, cb *callback) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, s.limit(len(cb.body)+overhead))
	defer cancel()

	req, err := http.NewRequestWithContext(ctx, cb.method, cb.target.url.String(),
		bytes.NewReader(cb.body))
	if err != nil {
		return 0, withoutURL(err)
	}
	req.Header = cb.target.header(cb.keyID)
	req.Header.Set("Content-Type", cb.contentType)

	client := http.Client{
		Transport: s.transport,
		// A redirect is a failure, like any answer but 200 to 299.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, withoutURL(err)
	}
	defer func() { _ = resp.Body.Close() }()
	// Some of the answer's body, which means nothing, is read, so that the connection can
	// be used again.
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return resp.StatusCode, fmt.Errorf("answered %d", resp.StatusCode)
	}
	return resp.StatusCode, nil
}

// overhead is how many bytes handshakes and headers have at most, beside a body.
const overhead = 4 << 10

// limit is how long it may take to send so many bytes and to get an answer.
func (s *sender) limit(size int) time.Duration {
	if s.uploadRate <= 0 {
		return s.timeout
	}
	return s.timeout + time.Duration(float64(size)/float64(s.uploadRate)*float64(time.Second))
}

// fields say in a log line which callback it is about. They do not show the query and the
// credentials of the URL, which are secret.
func (cb *callback) fields() []zap.Field {
	return []zap.Field{
		zap.String("request_id", cb.requestID),
		zap.String("kind", cb.kind),
		zap.String("method", cb.method),
		zap.String("host", cb.target.url.Host),
		zap.String("path", cb.target.url.EscapedPath()),
	}
}

// withoutURL removes the URL from an error of net/http, as it has the query in it.
func withoutURL(err error) error {
	var withURL *url.Error
	if errors.As(err, &withURL) {
		return withURL.Err
	}
	return err
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
