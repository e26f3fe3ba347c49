package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/stagecoachmail/stagecoach/internal/service"
	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	"github.com/stagecoachmail/stagecoach/services/admin/internal/fleet"
)

const (
	// bodyTime is how long the body of a request may take; of one with many messages each of them.
	bodyTime = 30 * time.Second
	// writeTime is how long a caller may take to read what he is given.
	writeTime = 30 * time.Second
)

// front is what the port answers with: gRPC goes to the gRPC server, everything else is JSON over HTTP.
type front struct {
	access  *access
	grpc    *grpc.Server
	methods map[string]jsonMethod
	unary   grpc.UnaryServerInterceptor
	stream  grpc.StreamServerInterceptor
}

// jsonMethod is a method as it was registered, with what serves it.
type jsonMethod struct {
	serves any
	unary  *grpc.MethodDesc
	stream *grpc.StreamDesc
}

// RegisterService implements grpc.ServiceRegistrar.
func (f *front) RegisterService(d *grpc.ServiceDesc, serves any) {
	f.grpc.RegisterService(d, serves)
	for i := range d.Methods {
		f.methods["/"+d.ServiceName+"/"+d.Methods[i].MethodName] = jsonMethod{serves: serves, unary: &d.Methods[i]}
	}
	for i := range d.Streams {
		f.methods["/"+d.ServiceName+"/"+d.Streams[i].StreamName] = jsonMethod{serves: serves, stream: &d.Streams[i]}
	}
}

// ServeHTTP implements http.Handler. Nobody's request is read before it is known whose it is.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	isGRPC := r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
	c, err := f.access.identify(r.Context(), r.RemoteAddr, r.Header.Get("Authorization"), r.TLS, authority(r.Context()))
	if err != nil {
		if isGRPC {
			refuseGRPC(w, err)
		} else {
			writeError(w, err)
		}
		return
	}
	r = r.WithContext(withCaller(r.Context(), c))
	r.Header.Del("Authorization") // no service needs it
	switch m, known := f.methods[r.URL.Path]; {
	case isGRPC:
		f.grpc.ServeHTTP(w, r)
	case r.URL.Path == "/" && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		f.index(w, r)
	case !known:
		writeStatus(w, http.StatusNotFound, status.Newf(codes.Unimplemented, "there is no method %.200q: GET / lists them", r.URL.Path))
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		writeStatus(w, http.StatusMethodNotAllowed, status.New(codes.Unimplemented, "methods are called with POST"))
	case !isJSON(r.Header.Get("Content-Type")):
		// A page of another site can make a browser send any other type without asking first.
		writeStatus(w, http.StatusUnsupportedMediaType, status.New(codes.InvalidArgument, "the body is JSON: say `content-type: application/json`"))
	default:
		f.call(w, r, m)
	}
}

func isJSON(contentType string) bool {
	t, params, err := mime.ParseMediaType(contentType)
	return err == nil && t == "application/json" && (params["charset"] == "" || strings.EqualFold(params["charset"], "utf-8"))
}

// refuseGRPC answers a call by its status alone, as gRPC over HTTP/2 has it (Trailers-Only).
func refuseGRPC(w http.ResponseWriter, err error) {
	s := status.Convert(err)
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Grpc-Status", strconv.Itoa(int(s.Code())))
	w.Header().Set("Grpc-Message", url.PathEscape(s.Message()))
	w.WriteHeader(http.StatusOK)
}

// index lists the methods that there are, and who may call them.
func (f *front) index(w http.ResponseWriter, r *http.Request) {
	c, _ := callerOf(r.Context())
	if err := f.access.may(c, adminv1.AccessService_GetAccess_FullMethodName); err != nil {
		writeError(w, err)
		return
	}
	type entry struct {
		Method string `json:"method"`
		Role   string `json:"role"`
		// Stream: the answer is lines of JSON; Upload: the request too.
		Stream bool `json:"stream,omitempty"`
		Upload bool `json:"upload,omitempty"`
	}
	var doc struct {
		Methods []entry `json:"methods"`
	}
	for _, name := range allMethods() {
		m, served := f.methods[name]
		if !served {
			continue
		}
		e := entry{Method: name, Role: roleName(methods[name].least)}
		if m.stream != nil {
			e.Stream, e.Upload = true, m.stream.ClientStreams
		}
		doc.Methods = append(doc.Methods, e)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(doc) //nolint:errcheck // the caller is gone
}

// call makes a call of a request, and its answer of the call's.
func (f *front) call(w http.ResponseWriter, r *http.Request, m jsonMethod) {
	md := metadata.MD{}
	if id := r.Header.Get(service.RequestIDKey); id != "" {
		md.Set(service.RequestIDKey, id)
	}
	ctx := metadata.NewIncomingContext(r.Context(), md)
	if m.stream != nil {
		s := newJSONStream(ctx, w, r, m.stream.ClientStreams)
		info := &grpc.StreamServerInfo{FullMethod: r.URL.Path, IsClientStream: m.stream.ClientStreams, IsServerStream: m.stream.ServerStreams}
		s.end(f.stream(m.serves, s, info, m.stream.Handler))
		return
	}
	trailer := &trailer{method: r.URL.Path}
	ctx = grpc.NewContextWithServerTransportStream(ctx, trailer)
	resp, err := m.unary.Handler(m.serves, ctx, func(v any) error { return readBody(w, r, v) }, f.unary)
	if err != nil {
		writeError(w, err)
		return
	}
	data, err := encode(resp)
	if err != nil {
		writeError(w, err)
		return
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTime)) //nolint:errcheck // every connection of ours has one
	w.Header().Set("Content-Type", "application/json")
	for _, missing := range trailer.md.Get(fleet.Missing) {
		w.Header().Add(fleet.Missing, missing)
	}
	_, _ = w.Write(append(data, '\n')) //nolint:errcheck // the caller is gone
}

// trailer keeps what a method says beside its answer: over HTTP that is in the header.
type trailer struct {
	method string
	md     metadata.MD
}

// Method implements grpc.ServerTransportStream.
func (t *trailer) Method() string { return t.method }

// SetHeader implements grpc.ServerTransportStream.
func (*trailer) SetHeader(metadata.MD) error { return nil }

// SendHeader implements grpc.ServerTransportStream.
func (*trailer) SendHeader(metadata.MD) error { return nil }

// SetTrailer implements grpc.ServerTransportStream.
func (t *trailer) SetTrailer(md metadata.MD) error {
	t.md = metadata.Join(t.md, md)
	return nil
}

// readBody reads a request that is one message; an empty body is an empty message.
func readBody(w http.ResponseWriter, r *http.Request, v any) error {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyTime)) //nolint:errcheck // every connection of ours has one
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	_ = control.SetReadDeadline(time.Time{}) //nolint:errcheck // as above
	if err != nil {
		return readError(err)
	}
	return decode(data, v)
}

func readError(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return status.Errorf(codes.ResourceExhausted, "a request has %d bytes at most", maxBody)
	}
	return status.Errorf(codes.InvalidArgument, "the request cannot be read: %v", err)
}

func decode(data []byte, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "%T is no message", v)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	if err := protojson.Unmarshal(data, m); err != nil {
		return status.Errorf(codes.InvalidArgument, "the request is no %s: %v", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return nil
}

// encode writes a message in one line.
func encode(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, status.Errorf(codes.Internal, "%T is no message", v)
	}
	data, err := protojson.Marshal(m)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "the answer cannot be written: %v", err)
	}
	var line bytes.Buffer
	if err := json.Compact(&line, data); err != nil { // protojson puts in blanks at random
		return nil, status.Errorf(codes.Internal, "the answer cannot be written: %v", err)
	}
	return line.Bytes(), nil
}

// jsonError is how an error is told.
type jsonError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func errorOf(s *status.Status) jsonError {
	return jsonError{code.Code(s.Code()).String(), s.Message()}
}

func writeError(w http.ResponseWriter, err error) {
	s := status.Convert(err)
	if errors.Is(err, context.DeadlineExceeded) {
		s = status.FromContextError(err)
	}
	if s.Code() == codes.Unauthenticated {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	writeStatus(w, httpStatus(s.Code()), s)
}

func writeStatus(w http.ResponseWriter, code int, s *status.Status) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(errorOf(s)) //nolint:errcheck // the caller is gone
}

// httpStatus is the status of HTTP for one of gRPC, as google.rpc.Code gives them.
func httpStatus(c codes.Code) int {
	switch c {
	case codes.OK:
		return http.StatusOK
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
		return http.StatusBadRequest
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.NotFound:
		return http.StatusNotFound
	case codes.Aborted, codes.AlreadyExists:
		return http.StatusConflict
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Canceled:
		return 499 // the caller has gone
	case codes.Unimplemented:
		return http.StatusNotImplemented
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}
