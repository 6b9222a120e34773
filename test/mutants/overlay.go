package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// moduleRoot is the directory of go.mod.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if filepath.Base(mod) != "go.mod" {
		return "", errors.New("no go.mod found: run it in the project's tree")
	}
	return filepath.Dir(mod), nil
}

// sources gives the files that the mutant changes, with their new text.
func (m mutant) sources(root string) (map[string]string, error) {
	text := make(map[string]string)
	for _, e := range m.edits {
		s, ok := text[e.file]
		if !ok {
			raw, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				return nil, err
			}
			s = string(raw)
		}
		if n := strings.Count(s, e.old); n != 1 {
			return nil, fmt.Errorf("%s has %d times what %s replaces, not once: bring list.go up to date\n%s", e.file, n, m.Name, e.old)
		}
		text[e.file] = strings.Replace(s, e.old, e.new, 1)
	}
	return text, nil
}

// overlay writes the mutant's files into dir, and gives the environment in which go builds
// with them, in this process's children and in theirs.
func (m mutant) overlay(root, dir string) (env []string, err error) {
	text, err := m.sources(root)
	if err != nil {
		return nil, err
	}
	replace := make(map[string]string)
	for file, s := range text {
		to := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(to, []byte(s), 0o644); err != nil {
			return nil, err
		}
		replace[filepath.Join(root, file)] = to
	}
	raw, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return nil, err
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, raw, 0o644); err != nil {
		return nil, err
	}
	flags := strings.TrimSpace(os.Getenv("GOFLAGS") + " -overlay=" + list)
	return append(os.Environ(), "GOFLAGS="+flags), nil
}
