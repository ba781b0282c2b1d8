// A recording upstream that reads bodies as Go servers do: encoding/json into structs, which takes keys in any case and with
// look-alike letters, lets the last of equal ones win, and stops reading behind the first document.
// go_json PORT DEFINITIONS
package main

import (
	"encoding/json"
	"net/http"
	"os"
)

type parameters struct {
	Name      string          `json:"name"`
	URI       string          `json:"uri"`
	Arguments json.RawMessage `json:"arguments"`
}

type message struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params parameters      `json:"params"`
}

func main() {
	file, err := os.ReadFile(os.Args[2])
	if err != nil {
		panic(err)
	}
	definitions := map[string]json.RawMessage{}
	if err := json.Unmarshal(file, &definitions); err != nil {
		panic(err)
	}
	handler := func(writer http.ResponseWriter, request *http.Request) {
		var asked message
		if err := json.NewDecoder(request.Body).Decode(&asked); err != nil {
			writer.WriteHeader(http.StatusBadRequest)
			return
		}
		if asked.ID == nil {
			writer.WriteHeader(http.StatusAccepted)
			return
		}
		result, known := definitions[asked.Method]
		if !known {
			name := asked.Params.Name
			if name == "" {
				name = asked.Params.URI
			}
			ran, _ := json.Marshal(map[string]any{"flavour": "go", "method": asked.Method, "name": name, "arguments": asked.Params.Arguments})
			result, _ = json.Marshal(map[string]any{
				"resultType": "complete", "content": []any{map[string]any{"type": "text", "text": string(ran)}},
			})
		}
		writer.Header().Set("content-type", "application/json")
		_ = json.NewEncoder(writer).Encode(map[string]any{"jsonrpc": "2.0", "id": asked.ID, "result": result})
	}
	if err := http.ListenAndServe("127.0.0.1:"+os.Args[1], http.HandlerFunc(handler)); err != nil {
		panic(err)
	}
}
