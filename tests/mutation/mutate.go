package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strings"
)

// check is one condition of the source that leads to a refusal, or that an acceptance needs.
type check struct {
	number int    // for the variable that takes it out
	file   string // relative to the module
	line   int
	fn     string // the function that it is in
	text   string // the condition
	nth    int    // of those of the function that read the same, from 1
}

func (c check) String() string { return fmt.Sprintf("%s (line %d)", c.key(), c.line) }

// key tells a check from others, and stays what it is when lines above it come and go.
func (c check) key() string {
	key := c.file + " " + c.fn + ": " + c.text
	if c.nth > 1 {
		key += fmt.Sprintf(" #%d", c.nth)
	}
	return key
}

// mutable is source whose checks can be taken out one at a time.
type mutable struct {
	file   string
	source []byte
	set    *token.FileSet
	fn     string
	result string // the type of the function's last result
	checks []check
	edits  []edit
	next   int
}

type edit struct {
	at   int // offset in the source
	text string
}

// mutate finds the checks of a file and gives its source with a switch for each, numbered from first up.
func mutate(file string, source []byte, first int) ([]byte, []check, error) {
	m := &mutable{file: file, source: source, set: token.NewFileSet(), next: first}
	parsed, err := parser.ParseFile(m.set, file, source, 0)
	if err != nil {
		return nil, nil, err
	}
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil {
			m.fn = f.Name.Name
			if f.Recv != nil {
				m.fn = strings.TrimLeft(m.text(f.Recv.List[0].Type), "*") + "." + m.fn
			}
			m.function(f.Type, f.Body)
		}
	}
	slices.SortStableFunc(m.edits, func(a, b edit) int { return a.at - b.at })
	var out bytes.Buffer
	at := 0
	for _, e := range m.edits {
		out.Write(source[at:e.at])
		out.WriteString(e.text)
		at = e.at
	}
	out.Write(source[at:])
	return out.Bytes(), m.checks, nil
}

func (m *mutable) offset(p token.Pos) int { return m.set.Position(p).Offset }

func (m *mutable) text(n ast.Node) string {
	return strings.Join(strings.Fields(string(m.source[m.offset(n.Pos()):m.offset(n.End())])), " ")
}

func (m *mutable) function(signature *ast.FuncType, body *ast.BlockStmt) {
	result := ""
	if signature.Results != nil {
		result = m.text(signature.Results.List[len(signature.Results.List)-1].Type)
	}
	outer := m.result
	m.result = result
	defer func() { m.result = outer }()
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			m.function(n.Type, n.Body)
			return false
		case *ast.IfStmt:
			if m.refuses(n.Body.List) {
				m.remove(n.Cond)
			}
		case *ast.SwitchStmt:
			if n.Tag != nil {
				break
			}
			for _, c := range n.Body.List {
				if clause := c.(*ast.CaseClause); m.refuses(clause.Body) {
					for _, condition := range clause.List {
						m.remove(condition)
					}
				}
			}
		case *ast.ReturnStmt:
			if m.result == "bool" && len(n.Results) > 0 {
				m.need(n.Results[len(n.Results)-1])
			}
		}
		return true
	})
}

// The names of functions that make errors, and of variables that are ones.
var (
	makesError = regexp.MustCompile(`(?i)(err|invalid|corrupt|refus|unsatisf|malformed|fail|mistake)`)
	isError    = regexp.MustCompile(`(?i)^(\w+\.)*(err|\w*err|err\w*)$`)
)

// refuses tells whether statements end in a refusal.
func (m *mutable) refuses(body []ast.Stmt) bool {
	for _, s := range body {
		switch s := s.(type) {
		case *ast.ExprStmt:
			if call, ok := s.X.(*ast.CallExpr); ok && (makesError.MatchString(m.text(call.Fun)) || m.text(call.Fun) == "panic") {
				return true
			}
		case *ast.AssignStmt:
			for _, left := range s.Lhs {
				if isError.MatchString(m.text(left)) {
					return true
				}
			}
		case *ast.ReturnStmt:
			if len(s.Results) == 0 {
				return false
			}
			switch last := s.Results[len(s.Results)-1].(type) {
			case *ast.Ident:
				return m.result == "bool" && last.Name == "false" || m.result == "error" && last.Name != "nil"
			case *ast.CallExpr:
				return m.result == "error" && makesError.MatchString(m.text(last.Fun))
			default:
				return m.result == "error"
			}
		}
	}
	return false
}

// remove takes out each alternative of a condition that refuses.
func (m *mutable) remove(condition ast.Expr) {
	switch c := condition.(type) {
	case *ast.ParenExpr:
		m.remove(c.X)
	case *ast.BinaryExpr:
		if c.Op == token.LOR {
			m.remove(c.X)
			m.remove(c.Y)
			return
		}
		m.replace(condition, "(%s && mutation != %d)")
	default:
		m.replace(condition, "(%s && mutation != %d)")
	}
}

// need takes out each part of a condition that accepts.
func (m *mutable) need(condition ast.Expr) {
	switch c := condition.(type) {
	case *ast.ParenExpr:
		m.need(c.X)
	case *ast.BinaryExpr:
		if c.Op == token.LAND {
			for _, part := range []ast.Expr{c.X, c.Y} {
				if inner, ok := part.(*ast.BinaryExpr); ok && inner.Op == token.LAND {
					m.need(part)
				} else {
					m.replace(part, "(%s || mutation == %d)")
				}
			}
		}
	}
}

func (m *mutable) replace(condition ast.Expr, form string) {
	before, after, _ := strings.Cut(fmt.Sprintf(form, "\x00", m.next), "\x00")
	m.edits = append(m.edits, edit{m.offset(condition.Pos()), before + "("}, edit{m.offset(condition.End()), ")" + after})
	c := check{m.next, m.file, m.set.Position(condition.Pos()).Line, m.fn, m.text(condition), 1}
	for _, other := range m.checks {
		if other.fn == c.fn && other.text == c.text {
			c.nth++
		}
	}
	m.checks = append(m.checks, c)
	m.next++
}
