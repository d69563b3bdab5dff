package simulator

// Errors in the vendor's shape.

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

// call is one request to the simulator.
type call struct {
	requestID string
	keyID     string
	query     url.Values
}

// apiError is an error as the vendor's API answers it, see
// https://developers.deepgram.com/docs/errors.
type apiError struct {
	status  int
	code    string
	message string
}

func (e *apiError) Error() string { return e.message }

// refusal is an error whose code is the text of its status, such as "Bad Request", as
// the vendor has it for errors of the request.
func refusal(status int, format string, args ...any) *apiError {
	return &apiError{
		status:  status,
		code:    http.StatusText(status),
		message: fmt.Sprintf(format, args...),
	}
}

var (
	errInvalidAuth = &apiError{http.StatusUnauthorized, "INVALID_AUTH", "Invalid credentials."}
	errForeignPage = refusal(http.StatusForbidden,
		"Requests of web pages from other origins are refused, "+
			"as the simulator has no api_key configured.")
	errNotAudio = refusal(http.StatusBadRequest,
		"Bad Request: failed to process audio: corrupt or unsupported data")
	errNotJSON = refusal(http.StatusBadRequest,
		"Content-type was application/json, but we could not process the JSON payload.")
	errTooManyPending = &apiError{http.StatusTooManyRequests, "TOO_MANY_REQUESTS",
		"Too many requests. The simulator has too many callbacks pending; please try again later."}
)

// refuse answers with an error. An error that is no apiError is the simulator's own: its
// text may tell of the configuration, so it is not in the answer, but returned for the
// log.
func (c *call) refuse(w http.ResponseWriter, err error) error {
	var tooLarge *http.MaxBytesError
	var answer *apiError
	switch {
	case errors.As(err, &answer):
	case errors.As(err, &tooLarge):
		answer = refusal(http.StatusRequestEntityTooLarge, "the request body is larger than %d bytes",
			tooLarge.Limit)
	default:
		answer = refusal(http.StatusInternalServerError, "internal error of the simulator")
	}
	body := errorBody{Code: answer.code, Message: answer.message, RequestID: c.requestID}
	// The vendor repeats the error in a header, for WebSocket clients that
	// cannot read the body of a refused handshake (changelog of 2022-11-08).
	if encoded, encodeErr := json.Marshal(body); encodeErr == nil {
		w.Header().Set("Dg-Error", string(encoded))
	}
	if writeErr := writeJSON(w, answer.status, body); writeErr != nil {
		return writeErr
	}
	if answer.status == http.StatusInternalServerError {
		return err
	}
	return nil
}

type errorBody struct {
	Code      string `json:"err_code"`
	Message   string `json:"err_msg"`
	RequestID string `json:"request_id"`
}

// accepted answers a request whose result goes to a callback.
func (c *call) accepted(w http.ResponseWriter) error {
	return writeJSON(w, http.StatusOK, struct {
		RequestID string `json:"request_id"`
	}{c.requestID})
}

func writeJSON(w http.ResponseWriter, status int, body any) error {
	encoded, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return writeBody(w, status, "application/json", encoded)
}

func writeBody(w http.ResponseWriter, status int, contentType string, body []byte) error {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, err := w.Write(body)
	return err
}
