package main

import (
	"fmt"
	"io"
	"strings"

	"catena/schemas"
	"catena/schemas/sources"
)

func showSource(env *environment, set *sources.Set, name string, asYAML bool) error {
	src, ok := set.Get(name)
	if !ok {
		return usagef("there is no source %q; `catena sources list` names them", name)
	}
	if asYAML {
		text, err := src.YAML()
		if err != nil {
			return err
		}
		_, err = env.stdout.Write(text)
		return err
	}
	x := shower{w: env.stdout, colour: env.colour()}
	x.source(src)
	return nil
}

// shower writes a source in words.
type shower struct {
	w      io.Writer
	colour bool
}

func (x *shower) source(src *sources.Source) {
	x.printf("%s  %s (%s)\n%s\n", x.paint(bold, src.Name), src.Title, src.Vendor, src.Reference)
	if src.File != "" {
		x.printf("from %s\n", src.File)
	}
	x.heading("a record is of this source if")
	for _, clause := range src.Match {
		x.printf("  %s\n", sources.Condition{clause})
	}
	x.printf("  and none before it takes it: priority %d, lower numbers first\n", src.Priority)
	x.heading("an event")
	var id []string
	for _, t := range src.ID {
		id = append(id, t.Text)
	}
	x.printf("  is told from others by %s\n", strings.Join(id, ", "))
	x.printf("  happened at %s\n", src.Common.Time.Text)
	x.classes(src)
	x.section("was performed with", src, x.keys)
	x.section("binds", src, x.makes)
	x.section("ends", src, x.ends)
	x.section("is no row of its own, and only binds,", src, func(rule string, f *sources.Fields) {
		if f.BindOnly != nil {
			x.entry(f.BindOnly.Text, rule, nil)
		}
	})
}

func (x *shower) classes(src *sources.Source) {
	x.heading("is of class")
	if c := src.Common.Class; c != nil {
		x.printf("  %-12s unless a rule below says otherwise\n", c)
	} else {
		x.printf("  %-12s unless a rule below says otherwise\n", schemas.ClassOther)
	}
	for i := range src.Rules {
		if c := src.Rules[i].Class; c != nil {
			x.printf("  %-12s %s\n", c, x.when(src.Rules[i].When))
		}
	}
}

// section writes what the common part and each rule say of one thing, under a
// heading, if any says something.
func (x *shower) section(title string, src *sources.Source, each func(rule string, f *sources.Fields)) {
	var text strings.Builder
	out := x.w
	x.w = &text
	each("", &src.Common)
	for i := range src.Rules {
		each(src.Rules[i].When.String(), &src.Rules[i].Fields)
	}
	x.w = out
	if text.Len() > 0 {
		x.heading(title)
		x.printf("%s", text.String())
	}
}

func (x *shower) keys(rule string, f *sources.Fields) {
	for i := range f.Keys {
		x.entry(keyText(&f.Keys[i].Key), rule, f.Keys[i].When)
	}
}

func (x *shower) makes(rule string, f *sources.Fields) {
	for i := range f.Makes {
		m := &f.Makes[i]
		words := []string{m.Relation.String(), m.Strength.String()}
		if m.FromAlways {
			words = append(words, "always")
		}
		for _, t := range []struct {
			word string
			t    *sources.Template
		}{{"from", m.From}, {"until", m.Until}, {"expires", m.Expires}} {
			if t.t != nil {
				words = append(words, t.word+" "+t.t.Text)
			}
		}
		x.entry(fmt.Sprintf("%s ← %s  %s", keyText(&m.Child), keyText(&m.Parent), x.paint(cyan, strings.Join(words, ", "))), rule, m.When)
	}
}

func (x *shower) ends(rule string, f *sources.Fields) {
	for i := range f.Ends {
		e := &f.Ends[i]
		text := keyText(&e.Key)
		if e.Revoked {
			text += "  " + x.paint(cyan, "revoked")
		}
		x.entry(text, rule, e.When)
	}
}

func (x *shower) entry(text, rule string, own sources.Condition) {
	x.printf("  %s\n", text)
	if rule != "" {
		x.printf("      %s\n", x.paint(dim, "if "+rule))
	}
	if len(own) > 0 {
		x.printf("      %s\n", x.paint(dim, "if "+own.String()))
	}
}

func (x *shower) when(c sources.Condition) string { return x.paint(dim, "if "+c.String()) }

// keyText is kind:namespace:value, the value as it is written.
func keyText(k *sources.KeyTemplate) string { return k.Value.Text }

func (x *shower) heading(s string) { x.printf("\n%s\n", x.paint(bold, s)) }

func (x *shower) printf(format string, args ...any) { fmt.Fprintf(x.w, format, args...) }

func (x *shower) paint(colour, s string) string {
	if !x.colour {
		return s
	}
	return colour + s + reset
}
