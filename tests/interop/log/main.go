// SPDX-License-Identifier: Apache-2.0

// Command log reads a transparency log with the libraries that Go's checksum database and other logs use, and
// prints what it found as one JSON object: log DIRECTORY KEY [COSIGNER]...
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Found is what the log is, by the word of these libraries.
type Found struct {
	Origin      string        `json:"origin"`
	Size        int64         `json:"size"`
	Root        []byte        `json:"root"`
	Signers     []string      `json:"signers"`
	Entries     []string      `json:"entries"`
	Inclusion   [][]tlog.Hash `json:"inclusion"`   // of each entry
	Consistency [][]tlog.Hash `json:"consistency"` // from each smaller size
}

func read(directory string, keys []string) (*Found, error) {
	signed, err := os.ReadFile(filepath.Join(directory, "checkpoint"))
	if err != nil {
		return nil, err
	}
	log, err := note.NewVerifier(keys[0])
	if err != nil {
		return nil, err
	}
	verifiers := []note.Verifier{log}
	for _, key := range keys[1:] {
		cosigner, err := torchwood.NewCosignatureVerifier(key)
		if err != nil {
			return nil, err
		}
		verifiers = append(verifiers, cosigner)
	}
	opened, err := note.Open(signed, note.VerifierList(verifiers...))
	if err != nil {
		return nil, err
	}
	head, err := torchwood.ParseCheckpoint(opened.Text)
	if err != nil {
		return nil, err
	}
	found := &Found{Origin: head.Origin, Size: head.N, Root: head.Hash[:]}
	for _, signature := range opened.Sigs {
		found.Signers = append(found.Signers, signature.Name)
	}
	files, err := torchwood.NewTileFS(os.DirFS(directory))
	if err != nil {
		return nil, err
	}
	client, err := torchwood.NewClient(files)
	if err != nil {
		return nil, err
	}
	for _, entry := range client.AllEntries(context.Background(), head.Tree, 0) {
		found.Entries = append(found.Entries, string(entry))
	}
	if err := client.Err(); err != nil {
		return nil, err
	}
	return found, prove(found, head, torchwood.TileHashReaderWithContext(context.Background(), head.Tree, files))
}

func prove(found *Found, head torchwood.Checkpoint, hashes tlog.HashReader) error {
	for index := range head.N {
		inclusion, err := tlog.ProveRecord(head.N, index, hashes)
		if err != nil {
			return err
		}
		record := tlog.RecordHash([]byte(found.Entries[index]))
		if err := tlog.CheckRecord(inclusion, head.N, head.Hash, index, record); err != nil {
			return err
		}
		found.Inclusion = append(found.Inclusion, inclusion)
		consistency, err := tlog.ProveTree(head.N, index+1, hashes)
		if err != nil {
			return err
		}
		found.Consistency = append(found.Consistency, consistency)
	}
	return nil
}

func main() {
	found, err := read(os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var printed bytes.Buffer
	json.NewEncoder(&printed).Encode(found)
	os.Stdout.Write(printed.Bytes())
}
