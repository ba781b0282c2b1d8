// What the Go SDK executes: one request per line on stdin, what its handlers were given per line on stdout (as python_sdk.py).
// With the argument "json" it is encoding/json alone, as servers without an SDK use it: keys in any case, the last of equal ones.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

type sent struct {
	Method  string      `json:"method"`
	Headers [][2]string `json:"headers"`
	Body    string      `json:"body"`
}

type call struct {
	Method string `json:"method"`
	Params any    `json:"params"`
	Typed  *typed `json:"typed,omitempty"`
}

type answer struct {
	Executed []call `json:"executed"`
	Status   int    `json:"status"`
}

var executed []call

func handler() http.Handler {
	silent := slog.New(slog.NewTextHandler(io.Discard, nil))
	server := mcp.NewServer(&mcp.Implementation{Name: "fuzz", Version: "1"}, &mcp.ServerOptions{Logger: silent, HasTools: true, HasPrompts: true, HasResources: true})
	server.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, request mcp.Request) (mcp.Result, error) {
			executed = append(executed, call{Method: method, Params: request.GetParams()})
			return next(ctx, method, request)
		}
	})
	options := &mcp.StreamableHTTPOptions{Stateless: true, JSONResponse: true, Logger: silent, DisableLocalhostProtection: true}
	return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, options)
}

// typed is how a tool that declares its arguments gets them.
type typed struct {
	Amount int64    `json:"amount"`
	Ratio  float64  `json:"ratio"`
	Owner  string   `json:"owner"`
	Dry    bool     `json:"dry"`
	Labels []string `json:"labels"`
}

// lenient reads as a server that knows its messages as structs.
func lenient(body []byte) answer {
	var message struct {
		ID     any    `json:"id"`
		Method string `json:"method"`
		Params struct {
			Name      string          `json:"name,omitempty"`
			URI       string          `json:"uri,omitempty"`
			Arguments json.RawMessage `json:"arguments,omitempty"`
			Ref       struct {
				Type string `json:"type,omitempty"`
				Name string `json:"name,omitempty"`
				URI  string `json:"uri,omitempty"`
			} `json:"ref,omitzero"`
			Notifications struct {
				ResourceSubscriptions []string `json:"resourceSubscriptions,omitempty"`
			} `json:"notifications,omitzero"`
		} `json:"params"`
	}
	if json.NewDecoder(bytes.NewReader(body)).Decode(&message) != nil {
		return answer{Status: 400}
	}
	raw := message.Params.Arguments
	var declared typed
	var arguments map[string]any
	seen := call{Method: message.Method}
	if raw != nil {
		if json.Unmarshal(raw, &arguments) != nil {
			return answer{Status: 400}
		}
		if json.Unmarshal(raw, &declared) == nil {
			seen.Typed = &declared
		}
		message.Params.Arguments, _ = json.Marshal(arguments)
	}
	seen.Params = message.Params
	return answer{Executed: []call{seen}, Status: 200}
}

func exchange(serve http.Handler, line []byte) answer {
	var request sent
	if err := json.Unmarshal(line, &request); err != nil {
		panic(err)
	}
	body, err := base64.StdEncoding.DecodeString(request.Body)
	if err != nil {
		panic(err)
	}
	if serve == nil {
		return lenient(body)
	}
	executed = nil
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	incoming := httptest.NewRequestWithContext(ctx, request.Method, "http://127.0.0.1/mcp", bytes.NewReader(body))
	for _, header := range request.Headers {
		incoming.Header.Add(header[0], header[1])
	}
	recorder := httptest.NewRecorder()
	serve.ServeHTTP(recorder, incoming)
	return answer{executed, recorder.Code}
}

func main() {
	var serve http.Handler
	if len(os.Args) < 2 || os.Args[1] != "json" {
		serve = handler()
	}
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
	output := json.NewEncoder(os.Stdout)
	output.SetEscapeHTML(false)
	_ = output.Encode(map[string]bool{"ready": true})
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		if err := output.Encode(exchange(serve, line)); err != nil {
			panic(err)
		}
	}
}
