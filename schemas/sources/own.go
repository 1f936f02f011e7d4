package sources

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// ownPriority is that of a user's own source that tells none: what it matches
// is tried after the built-in sources of the default priority. So a match that
// is too wide takes nothing from them.
const ownPriority = defaultPriority + 5

// ReadFolder reads a user's own sources: every *.yaml or *.yml in dir, and
// every folder in it with a source.yaml and whatever else. What begins with a
// dot is left out, which is how Kubernetes mounts a config map. Its error
// tells every fault of every file.
func ReadFolder(dir string) ([]*Source, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: name a folder that holds *.yaml files", err)
	}
	var list []*Source
	var faults []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		file := filepath.Join(dir, e.Name())
		info, err := os.Stat(file) // through links
		switch {
		case err != nil:
			faults = append(faults, fmt.Errorf("%w: mend the link, or remove it", err))
			continue
		case info.IsDir():
			file = filepath.Join(file, "source.yaml")
		case !isYAML(e.Name()):
			continue
		}
		src, err := ReadFile(file)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		list = append(list, src)
	}
	if len(list)+len(faults) == 0 {
		faults = append(faults, fmt.Errorf("%s: no *.yaml in it, and no folder with a source.yaml: add one, or leave the folder out", dir))
	}
	return list, errors.Join(faults...)
}

func isYAML(name string) bool {
	ext := filepath.Ext(name)
	return ext == ".yaml" || ext == ".yml"
}

// ReadFile reads one source of a user's own. A file that is called source.yaml
// has to lie in a folder of the source's name, as the built-in ones do.
func ReadFile(file string) (*Source, error) {
	text, err := readFile(os.DirFS(filepath.Dir(file)), filepath.Base(file))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	folder := ""
	if filepath.Base(file) == "source.yaml" {
		if full, err := filepath.Abs(file); err == nil {
			folder = filepath.Base(filepath.Dir(full))
		}
	}
	src, err := parse(file, folder, text)
	if err != nil {
		return nil, err
	}
	src.File = file
	return src, nil
}

// With returns a set that also has a user's own sources. One of them may take
// the place of a built-in source if it says so; any other clash of names is a
// fault, and all faults are told.
func (s *Set) With(own ...*Source) (*Set, error) {
	out := &Set{}
	var faults Faults
	fault := func(src *Source, format string, args ...any) {
		faults = append(faults, Fault{Source: src.Where(), Line: src.nameLine, Col: src.nameCol, Field: "name", Message: fmt.Sprintf(format, args...)})
	}
	for i, src := range own {
		builtIn, known := s.Get(src.Name)
		for _, other := range own[:i] {
			if other.Name == src.Name {
				fault(src, "%q is also the name of %s: give one of them another", src.Name, other.Where())
			}
		}
		switch {
		case known && !src.Replaces:
			fault(src, "%q is a built-in source: choose another name, or add replaces: true if this file takes its place", src.Name)
		case !known && src.Replaces:
			fault(src, "there is no built-in source %q that this file could replace: correct the name, or remove replaces", src.Name)
		}
		added := *src
		switch {
		case src.prioritySet:
		case known:
			added.Priority = builtIn.Priority
		default:
			added.Priority = ownPriority
		}
		out.sources = append(out.sources, &added)
	}
	if len(faults) > 0 {
		return nil, faults
	}
	for _, src := range s.sources {
		if _, replaced := out.Get(src.Name); !replaced {
			out.sources = append(out.sources, src)
		}
	}
	out.sort()
	return out, nil
}

// YAML returns the source.yaml as it was written.
func (s *Source) YAML() ([]byte, error) {
	if s.File != "" {
		return os.ReadFile(s.File)
	}
	return embedded.ReadFile(path.Join(s.Name, "source.yaml"))
}
