package simulator

// Making a recording fit its request. What does not depend on the request stays as it is.

import (
	"encoding/json"
	"errors"
	"fmt"
)

// ofRequest are the members of metadata that depend on the request.
func (o options) ofRequest(requestID string, notes []warning) map[string]any {
	values := map[string]any{"request_id": requestID, "simulated": true}
	if len(o.extra) > 0 {
		values["extra"] = o.extra
	}
	if len(o.tags) > 0 {
		values["tags"] = o.tags
	}
	if len(notes) > 0 {
		values["warnings"] = notes
	}
	return values
}

// patch sets members of the named objects in a result.
func patch(result []byte, objects map[string]map[string]any) ([]byte, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(result, &members); err != nil {
		return nil, err
	}
	if members == nil { // JSON's null
		return nil, errors.New("not a JSON object")
	}
	for name, values := range objects {
		if members[name] == nil && len(values) == 0 {
			continue
		}
		object, err := patched(members[name], values)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		members[name] = object
	}
	return json.Marshal(members)
}

// patched sets members of a JSON object, which may be missing, and removes those whose
// value is nil. An empty `created` becomes the present time.
func patched(object json.RawMessage, values map[string]any) (json.RawMessage, error) {
	var members map[string]json.RawMessage
	if len(object) > 0 {
		if err := json.Unmarshal(object, &members); err != nil {
			return nil, err
		}
	}
	if members == nil {
		members = make(map[string]json.RawMessage)
	}
	for name, value := range values {
		if value == nil {
			delete(members, name)
			continue
		}
		encoded, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		members[name] = encoded
	}
	if string(members["created"]) == `""` {
		members["created"] = json.RawMessage(`"` + now() + `"`)
	}
	return json.Marshal(members)
}
