package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-deepgram/deepgram-callback/internal/printable"
)

// Exit codes of the commands, beyond those that Caddy's own have (0 for done,
// 1 for anything that failed, 2 and 3 for how a server ended).
const (
	exitUnavailable = 4 // the API cannot be reached, or has no inbox open
	exitNotFound    = 5 // no such message, stream, route or inbox
	exitInFlight    = 6 // the message is being delivered right now
)

// exitError is a failure with the exit code that tells it from others.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// exitCode is what a command ends with.
func exitCode(err error) int {
	var exit *exitError
	switch {
	case err == nil:
		return caddy.ExitCodeSuccess
	case errors.As(err, &exit):
		return exit.code
	}
	return caddy.ExitCodeFailedStartup
}

// A client talks to the admin API at an address.
type client struct{ address string }

// do makes a request. The answer is a good one, and its body the caller's to close.
func (c client) do(method, uri string) (*http.Response, error) {
	// Every request has a connection of its own, which must not outlive it:
	// going through all messages takes many.
	header := http.Header{"Connection": {"close"}}
	response, err := caddycmd.AdminAPIRequest(c.address, method, base+uri, header, nil)
	if err != nil {
		return nil, classify(err, c.address)
	}
	return response, nil
}

// classify finds out what went wrong. Caddy tells a refusal from having had no
// answer at all only by the text of the error.
func classify(err error, address string) error {
	_, answer, answered := strings.Cut(err.Error(), "caddy responded with error: HTTP ")
	status, body, complete := strings.Cut(answer, ": ")
	if !answered || !complete {
		return &exitError{exitUnavailable, fmt.Errorf("admin API at %s: %w", address, err)}
	}
	var refusal caddy.APIError
	if json.Unmarshal([]byte(body), &refusal) != nil {
		if status == strconv.Itoa(http.StatusNotFound) {
			return &exitError{exitUnavailable, fmt.Errorf("the Caddy at %s has no %s API", address, base)}
		}
		return err
	}
	err = errors.New(printable.Escape(refusal.Message))
	switch status {
	case strconv.Itoa(http.StatusNotFound):
		return &exitError{exitNotFound, err}
	case strconv.Itoa(http.StatusConflict):
		return &exitError{exitInFlight, err}
	case strconv.Itoa(http.StatusServiceUnavailable):
		return &exitError{exitUnavailable, err}
	}
	return err
}

// fetch makes a request and returns its answer, which is not a long one.
func (c client) fetch(method, uri string) ([]byte, error) {
	response, err := c.do(method, uri)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	return answer, nil
}

// decode makes a request and reads its answer into value.
func (c client) decode(method, uri string, value any) error {
	answer, err := c.fetch(method, uri)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, value); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return nil
}
