package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// volumePath is the folder of a volume, which the local-path provisioner names in the environment of its helper pod.
func volumePath() (string, error) {
	path := os.Getenv("VOL_DIR")
	if !filepath.IsAbs(path) || filepath.Dir(path) == "/" {
		return "", fmt.Errorf("VOL_DIR: %q is not the path of a volume", path)
	}
	return filepath.Clean(path), nil
}

// setUpVolume makes the folder of a volume, writable for every user as in K3s, and waits until it is on the disk.
func setUpVolume() error {
	path, err := volumePath()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o777); err != nil {
		return err
	}
	return errors.Join(flush(path), flush(filepath.Dir(path)))
}

// tearDownVolume removes the folder of a volume with its content.
func tearDownVolume() error {
	path, err := volumePath()
	if err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(path), flush(filepath.Dir(path)))
}

func flush(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}
