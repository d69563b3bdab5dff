package simulator

// The recordings that results are made of: those of the user, and for what these
// lack, those of the built-in folder.

import (
	"bytes"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// builtIn has the form of a folder that `results` names. Its texts say what
// they are, so that nobody takes a simulated result for a real one.
//
//go:embed builtin
var builtIn embed.FS

// maxResults is how many bytes the recordings of a folder may have together, since
// they are kept in memory.
const maxResults = 256 << 20

// bodies are the recordings, by their use. Without prerecorded or stream, results are
// made of the text; without speak, speech is silence.
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

// loadBodies reads a file or a folder of recordings, or none if path is empty. What
// is lacking is taken from the built-in folder.
func loadBodies(path string) (*bodies, error) {
	b := new(bodies)
	if path != "" {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		used := 0
		if info.IsDir() {
			used, err = b.loadFolder(os.DirFS(path))
		} else {
			used, err = b.load(os.DirFS(filepath.Dir(path)), filepath.Base(path))
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if used == 0 {
			return nil, fmt.Errorf(
				"%s: no file whose name begins with prerecorded, stream, read, speak or transcript", path,
			)
		}
	}
	folder, err := fs.Sub(builtIn, "builtin")
	if err != nil {
		return nil, err
	}
	simulated := new(bodies)
	if _, err := simulated.loadFolder(folder); err != nil {
		return nil, err
	}
	if b.text == nil {
		b.text = simulated.text
	}
	if b.read == nil {
		b.read = simulated.read
	}
	return b, nil
}

// loadFolder reads the files of a folder in the order of their names.
func (b *bodies) loadFolder(folder fs.FS) (used int, err error) {
	names, err := fs.Glob(folder, "*")
	if err != nil {
		return 0, err
	}
	return b.load(folder, names...)
}

// load reads files and returns how many it has used.
func (b *bodies) load(folder fs.FS, names ...string) (used int, err error) {
	room := int64(maxResults)
	for _, name := range names {
		use := use(name)
		if use == nil {
			continue
		}
		content, err := readLimited(folder, name, room)
		if err != nil {
			return used, err
		}
		room -= int64(len(content))
		if err := use(b, name, content); err != nil {
			return used, fmt.Errorf("%s: %w", name, err)
		}
		used++
	}
	return used, nil
}

// use returns how a file is added to bodies, by its name; nil if it is not used.
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

func readLimited(folder fs.FS, name string, limit int64) ([]byte, error) {
	file, err := folder.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("%s: the recordings are larger than %d bytes together", name, maxResults)
	}
	return content, err
}

// The following methods check that patch can work on what they add.

func (b *bodies) addPrerecorded(_ string, content []byte) error {
	b.prerecorded = append(b.prerecorded, content)
	_, err := patch(content, map[string]map[string]any{"metadata": nil})
	return err
}

func (b *bodies) addRead(_ string, content []byte) error {
	b.read = append(b.read, content)
	_, err := patch(content, map[string]map[string]any{"metadata": nil, "results": nil})
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
	".wav": "audio/wav", ".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".flac": "audio/flac",
	".aac": "audio/aac", ".raw": "audio/l16",
}

func (b *bodies) addSpeech(path string, content []byte) error {
	b.speak = append(b.speak, speech{contentType: speechTypes[filepath.Ext(path)], audio: content})
	return nil
}

// addStream adds a message, several messages one after another, or an array of them.
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

// choose picks one of several bodies by the hash of the input, so that the same
// input always gets the same body.
func choose[T any](of []T, sha256 string) T {
	sum, err := hex.DecodeString(sha256)
	if err != nil || len(sum) < 8 {
		return of[0]
	}
	return of[binary.BigEndian.Uint64(sum)%uint64(len(of))]
}
