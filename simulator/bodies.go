package simulator

// The user's own bodies, sent in place of the built-in ones.

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// maxResults bounds the memory of a folder of bodies.
const maxResults = 256 << 20

// bodies are what the option `results` names. What is missing there is built
// in.
type bodies struct {
	prerecorded [][]byte
	read        [][]byte
	speak       []speech
	stream      []recordedMessage
	text        *story
}

// speech is the audio of a text-to-speech result.
type speech struct {
	contentType string
	audio       []byte
}

// recordedMessage is a message of a live stream and when it is due, in seconds
// of audio.
type recordedMessage struct {
	body    map[string]json.RawMessage
	kind    string
	results bool
	due     float64
}

// loadBodies reads a file or a folder of bodies; an empty path stands for the
// built-in ones alone.
func loadBodies(path string) (*bodies, error) {
	b := &bodies{text: newStory(builtInText)}
	if path == "" {
		return b, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	names := []string{path}
	if info.IsDir() {
		// Glob sorts by name.
		if names, err = filepath.Glob(filepath.Join(globQuote(path), "*")); err != nil {
			return nil, err
		}
	}

	used, total := 0, int64(0)
	for _, name := range names {
		use := use(name)
		if use == nil {
			continue
		}
		content, err := readLimited(name, maxResults-total)
		if err != nil {
			return nil, err
		}
		total += int64(len(content))
		if err := use(b, name, content); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		used++
	}
	if used == 0 {
		return nil, fmt.Errorf("%s: no file whose name begins with prerecorded, stream, read, speak or transcript", path)
	}
	return b, nil
}

// globQuote makes a path stand for itself in a pattern.
func globQuote(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// use tells by its name what a file is used for; nil is nothing.
func use(path string) func(b *bodies, path string, content []byte) error {
	name, extension := filepath.Base(path), filepath.Ext(path)
	switch {
	case strings.HasPrefix(name, "prerecorded") && extension == ".json":
		return (*bodies).addPrerecorded
	case strings.HasPrefix(name, "read") && extension == ".json":
		return (*bodies).addRead
	case strings.HasPrefix(name, "stream") && extension == ".json":
		return (*bodies).addStream
	case strings.HasPrefix(name, "transcript") && extension == ".txt":
		return (*bodies).addTranscript
	case strings.HasPrefix(name, "speak") && speechTypes[extension] != "":
		return (*bodies).addSpeech
	default:
		return nil
	}
}

func readLimited(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("%s: the bodies are larger than %d bytes together", path, maxResults)
	}
	return content, nil
}

func (b *bodies) addPrerecorded(_ string, content []byte) error {
	b.prerecorded = append(b.prerecorded, content)
	return checkResult(content)
}

func (b *bodies) addRead(_ string, content []byte) error {
	b.read = append(b.read, content)
	return checkResult(content)
}

// checkResult makes sure that patchMetadata will work.
func checkResult(content []byte) error {
	_, err := patchMetadata(content, nil)
	return err
}

func (b *bodies) addTranscript(_ string, content []byte) error {
	text := newStory(string(content))
	if text == nil {
		return errors.New("no words in it")
	}
	b.text = text
	return nil
}

var speechTypes = map[string]string{
	".wav": "audio/wav", ".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".flac": "audio/flac", ".aac": "audio/aac", ".raw": "audio/l16",
}

func (b *bodies) addSpeech(path string, content []byte) error {
	b.speak = append(b.speak, speech{contentType: speechTypes[filepath.Ext(path)], audio: content})
	return nil
}

// addStream reads one message, several one after another, or an array.
func (b *bodies) addStream(_ string, content []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(content))
	if trimmed := bytes.TrimLeft(content, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '[' {
		var messages []map[string]json.RawMessage
		if err := decoder.Decode(&messages); err != nil {
			return err
		}
		for _, body := range messages {
			if err := b.addMessage(body); err != nil {
				return err
			}
		}
		return nil
	}
	for {
		var body map[string]json.RawMessage
		if err := decoder.Decode(&body); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := b.addMessage(body); err != nil {
			return err
		}
	}
}

func (b *bodies) addMessage(body map[string]json.RawMessage) error {
	var m recordedMessage
	if err := json.Unmarshal(body["type"], &m.kind); err != nil || m.kind == "" {
		return errors.New("a message without a type")
	}
	if m.kind == "Results" {
		m.results = true
		var start, duration float64
		if err := errors.Join(
			json.Unmarshal(body["start"], &start),
			json.Unmarshal(body["duration"], &duration),
		); err != nil {
			return fmt.Errorf("a Results message without start and duration: %w", err)
		}
		m.due = start + duration
		if _, err := patched(body["metadata"], nil); err != nil {
			return fmt.Errorf("metadata: %w", err)
		}
	}
	m.body = body
	b.stream = append(b.stream, m)
	return nil
}

// choose picks one of several bodies by what was sent, so that the same input
// always gets the same one.
func choose[T any](of []T, sha256 string) T {
	sum, err := hex.DecodeString(sha256)
	if err != nil || len(sum) < 8 {
		return of[0]
	}
	return of[binary.BigEndian.Uint64(sum)%uint64(len(of))]
}

// patchMetadata sets members of a result's metadata and leaves everything else
// as it is.
func patchMetadata(result []byte, values map[string]any) ([]byte, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(result, &members); err != nil {
		return nil, err
	}
	if members == nil {
		return nil, errors.New("not a JSON object")
	}
	metadata, err := patched(members["metadata"], values)
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	members["metadata"] = metadata
	return json.Marshal(members)
}

// patched sets members of a JSON object, which may be missing.
func patched(object json.RawMessage, values map[string]any) (json.RawMessage, error) {
	members := make(map[string]json.RawMessage)
	if len(object) > 0 {
		if err := json.Unmarshal(object, &members); err != nil {
			return nil, err
		}
	}
	if members == nil { // JSON's null
		members = make(map[string]json.RawMessage)
	}
	for name, value := range values {
		encoded, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		members[name] = encoded
	}
	return json.Marshal(members)
}

// ofRequest are the members of metadata that have to fit the request also in
// a body of the user's.
func (o options) ofRequest(requestID string) map[string]any {
	values := map[string]any{"request_id": requestID, "simulated": true}
	if len(o.extra) > 0 {
		values["extra"] = o.extra
	}
	if len(o.tags) > 0 {
		values["tags"] = o.tags
	}
	return values
}

// recordedScript plays the user's own messages. Each is due when so much audio
// came as it is about, and never before the one ahead of it.
type recordedScript struct {
	options   options
	requestID string
	messages  []recordedMessage
	metadata  *recordedMessage
}

func newRecordedScript(requestID string, o options, messages []recordedMessage) *recordedScript {
	s := &recordedScript{options: o, requestID: requestID}
	for _, m := range messages {
		if m.kind == "Metadata" {
			// It can only be the last message, so it waits for the end.
			s.metadata = &m
			continue
		}
		s.messages = append(s.messages, m)
	}
	return s
}

func (s *recordedScript) advance(seconds float64, emit func(message) error) error {
	for len(s.messages) > 0 && s.messages[0].due <= seconds {
		if err := s.emitNext(emit); err != nil {
			return err
		}
	}
	return nil
}

// finalize does nothing: what was recorded knows of no other end of a
// sentence.
func (s *recordedScript) finalize(float64, func(message) error) error { return nil }

func (s *recordedScript) finish(heard audio, emit func(message) error) error {
	for len(s.messages) > 0 {
		if err := s.emitNext(emit); err != nil {
			return err
		}
	}
	if s.metadata == nil {
		metadata := newListenMetadata(s.requestID, s.options, heard)
		metadata.Type = "Metadata"
		return emitJSON(metadata, false, emit)
	}
	body, err := json.Marshal(s.metadata.body)
	if err != nil {
		return err
	}
	body, err = patched(body, s.options.ofRequest(s.requestID))
	if err != nil {
		return err
	}
	return emit(message{body: body})
}

func (s *recordedScript) emitNext(emit func(message) error) error {
	m := s.messages[0]
	s.messages = s.messages[1:]
	body, err := json.Marshal(m.body)
	if err != nil {
		return err
	}
	if m.results {
		if body, err = patchMetadata(body, s.options.ofRequest(s.requestID)); err != nil {
			return err
		}
	}
	return emit(message{body: body, results: m.results})
}

// Interface guards
var (
	_ script = (*storyScript)(nil)
	_ script = (*recordedScript)(nil)
)
