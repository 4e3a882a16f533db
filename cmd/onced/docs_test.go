package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// functions are the names of all functions and methods of the product, the
// methods as (*Type).name.
func functions(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, dir := range []string{"../../api", "../../wire", "../../gateway", "../../cluster", "../../cluster/state", "../../fsm"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range file.Decls {
				f, ok := d.(*ast.FuncDecl)
				if !ok {
					continue
				}
				names[f.Name.Name] = true
				if f.Recv != nil {
					if star, ok := f.Recv.List[0].Type.(*ast.StarExpr); ok {
						names["(*"+star.X.(*ast.Ident).Name+")."+f.Name.Name] = true
					}
				}
			}
		}
	}
	return names
}

func TestTheLifeOfAClaimNamesFunctionsThatExist(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, life, _ := strings.Cut(string(readme), "## Life of a claim")
	life, _, _ = strings.Cut(life, "\n## ")
	exist := functions(t)
	named := regexp.MustCompile("`(\\(\\*[A-Za-z]+\\)\\.[A-Za-z]+|answerLocally|contest|appendGrant)`").FindAllStringSubmatch(life, -1)
	if len(named) < 15 {
		t.Fatalf("only %d functions are named", len(named))
	}
	for _, n := range named {
		if !exist[n[1]] {
			t.Errorf("README.md names %s, which does not exist", n[1])
		}
	}
}

func TestTheDocumentsNameFlagsThatExist(t *testing.T) {
	parser, err := kong.New(&cli{})
	if err != nil {
		t.Fatal(err)
	}
	exist := map[string]bool{"wipe": true} // of scripts/cluster
	var collect func(*kong.Node)
	collect = func(n *kong.Node) {
		for _, f := range n.Flags {
			exist[f.Name] = true
		}
		for _, child := range n.Children {
			collect(child)
		}
	}
	collect(parser.Model.Node)
	for _, name := range []string{"README.md", "docs/operating.md", "docs/gateway.md", "CHANGELOG.md"} {
		text, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`[ \x60(]--([a-z][a-z-]+)`).FindAllSubmatch(text, -1) {
			if flag := string(m[1]); !exist[flag] && flag != "some-name" {
				t.Errorf("%s names --%s, which does not exist", name, flag)
			}
		}
	}
}
