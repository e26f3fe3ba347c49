// Package proto checks that the generated code under proto/ is that of the .proto files.
package proto

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	adminv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/admin/v1"
	relayv1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/relay/v1"
	_ "github.com/stagecoachmail/stagecoach/proto/stagecoach/spool/v1" // its descriptor
	stagev1 "github.com/stagecoachmail/stagecoach/proto/stagecoach/stage/v1"
)

const root = "../../proto"

// services are what the generated stubs offer.
var services = []grpc.ServiceDesc{adminv1.QueueService_ServiceDesc, adminv1.TraceService_ServiceDesc, adminv1.PreviewService_ServiceDesc, adminv1.RouteService_ServiceDesc, adminv1.StatusService_ServiceDesc, adminv1.ArchiveService_ServiceDesc, adminv1.DkimService_ServiceDesc, adminv1.UserService_ServiceDesc, adminv1.ConfigService_ServiceDesc,
	adminv1.NodeService_ServiceDesc, adminv1.EventService_ServiceDesc, adminv1.StatisticsService_ServiceDesc, adminv1.GrantService_ServiceDesc, adminv1.AccessService_ServiceDesc,
	relayv1.RelayService_ServiceDesc, stagev1.StageService_ServiceDesc}

// A .proto file that was changed without `make gen` is found here.
func TestGenerated(t *testing.T) {
	var files []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".proto") {
			name, err := filepath.Rel(root, path)
			files = append(files, filepath.ToSlash(name))
			return err
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("no .proto files: %v", err)
	}
	for _, problem := range compare(t, root, files) {
		t.Error(problem)
	}
}

// The comparison finds a change: the test would be of no use otherwise.
func TestFindsChanges(t *testing.T) {
	const file = "stagecoach/relay/v1/relay.proto"
	for name, edit := range map[string][2]string{
		"a new field":     {"message Go {\n", "message Go {\n  string why = 2;\n"},
		"another number":  {"bool shadow = 9;", "bool shadow = 19;"},
		"another type":    {"uint64 n = 1;", "fixed64 n = 1;"},
		"another name":    {"bool shadow = 9;", "bool shade = 9;"},
		"a new method":    {"service RelayService {\n", "service RelayService {\n  rpc Ping(Go) returns (Ready);\n"},
		"a removed value": {"  FATE_KIND_UNKNOWN = 7;\n", ""},
	} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(root)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(file))
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(b), edit[0], edit[1], 1)
		if changed == string(b) {
			t.Fatalf("%s: %q does not stand in %s any more", name, edit[0], file)
		}
		if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		if len(compare(t, dir, []string{file})) == 0 {
			t.Errorf("%s is not found", name)
		}
	}
}

// compare compiles the files below dir and tells where the generated code is not theirs.
func compare(t *testing.T, dir string, files []string) (problems []string) {
	t.Helper()
	c := protocompile.Compiler{Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{dir}})}
	compiled, err := c.Compile(t.Context(), files...)
	if err != nil {
		t.Fatal(err)
	}
	stubs := map[string]grpc.ServiceDesc{}
	for _, s := range services {
		stubs[s.ServiceName] = s
	}
	for _, want := range compiled {
		have, err := protoregistry.GlobalFiles.FindFileByPath(want.Path())
		if err != nil {
			problems = append(problems, want.Path()+": no generated code is known here: make gen, and import it in this test")
			continue
		}
		w, h := protodesc.ToFileDescriptorProto(want), protodesc.ToFileDescriptorProto(have)
		w.SourceCodeInfo = nil
		if !proto.Equal(w, h) {
			problems = append(problems, want.Path()+": the generated code is not that of this file: make gen\n"+difference(prototext.Format(w), prototext.Format(h)))
		}
		for i := range want.Services().Len() {
			s := want.Services().Get(i)
			if stub, ok := stubs[string(s.FullName())]; !ok || !offers(stub, s) {
				problems = append(problems, string(s.FullName())+": the generated stubs are not those of this service: make gen")
			}
		}
	}
	return problems
}

func offers(stub grpc.ServiceDesc, s protoreflect.ServiceDescriptor) bool {
	names := map[string]bool{}
	for _, m := range stub.Methods {
		names[m.MethodName] = true
	}
	for _, m := range stub.Streams {
		names[m.StreamName] = true
	}
	for i := range s.Methods().Len() {
		if !names[string(s.Methods().Get(i).Name())] {
			return false
		}
	}
	return len(names) == s.Methods().Len()
}

// difference shows the first line that differs.
func difference(want, have string) string {
	w, h := strings.Split(want, "\n"), strings.Split(have, "\n")
	for i := range min(len(w), len(h)) {
		if strings.Join(strings.Fields(w[i]), " ") != strings.Join(strings.Fields(h[i]), " ") {
			return "the file:  " + strings.TrimSpace(w[i]) + "\ngenerated: " + strings.TrimSpace(h[i])
		}
	}
	return ""
}
