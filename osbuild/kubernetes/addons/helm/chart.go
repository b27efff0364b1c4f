package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart"
	"helm.sh/helm/v4/pkg/chart/loader"
	"helm.sh/helm/v4/pkg/cli/values"
	"helm.sh/helm/v4/pkg/getter"
	"helm.sh/helm/v4/pkg/registry"
)

// Files that helm-controller mounts, and what is made of them.
const (
	valuesFiles      = "/config/*.yaml"
	repositoryCA     = "/config/ca-file.pem"
	repositoryCAs    = "/ca-files/*"
	accountFolder    = "/auth"
	contentFolder    = "/chart"
	clusterCA        = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
	authoritiesFile  = "/tmp/ca-file.pem"
	decodedChartFile = "/tmp/chart.tgz"
)

// loadChart returns the chart and its values. `options` are those of the action, which get the account and authorities.
func (job *releaseJob) loadChart(options *action.ChartPathOptions, setClient func(*registry.Client)) (
	chart.Charter, map[string]any, error,
) {
	path, err := job.findChart(options, setClient)
	if err != nil {
		return nil, nil, err
	}
	files, err := filepath.Glob(valuesFiles) // sorted: helm-controller numbers them
	if err != nil {
		return nil, nil, err
	}
	chosen := values.Options{ValueFiles: files, Values: job.settings.set, StringValues: job.settings.setString}
	merged, err := chosen.MergeValues(getter.All(job.environment))
	if err != nil {
		return nil, nil, err
	}
	loaded, err := loader.Load(path)
	if err != nil {
		return nil, nil, err
	}
	accessor, err := chart.NewDefaultAccessor(loaded)
	if err != nil {
		return nil, nil, err
	}
	if accessor.IsLibraryChart() {
		return nil, nil, errors.New("this chart is a library for other charts")
	}
	if needed := accessor.MetaDependencies(); len(needed) > 0 {
		if err := action.CheckDependencies(loaded, needed); err != nil {
			return nil, nil, fmt.Errorf("the archive of the chart lacks charts that it needs: %w", err)
		}
	}
	return loaded, merged, nil
}

// findChart returns the file of the chart, which it decodes or downloads.
func (job *releaseJob) findChart(options *action.ChartPathOptions, setClient func(*registry.Client)) (string, error) {
	content, err := os.ReadFile(filepath.Join(contentFolder, job.settings.name+".tgz.base64"))
	if err == nil {
		archive, err := base64.StdEncoding.DecodeString(string(content))
		if err != nil {
			return "", fmt.Errorf("chartContent: %w", err)
		}
		return decodedChartFile, os.WriteFile(decodedChartFile, archive, 0o600)
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	options.RepoURL, options.Version = job.settings.repository, job.settings.version
	options.InsecureSkipTLSVerify, options.PlainHTTP = job.settings.insecure, job.settings.plainHTTP
	options.PassCredentialsAll = job.settings.passCredentials
	if options.CaFile, err = job.collectAuthorities(); err != nil {
		return "", err
	}
	if err := readAccount(options); err != nil {
		return "", err
	}
	client, err := job.registryClient(options)
	if err != nil {
		return "", err
	}
	setClient(client)
	return options.LocateChart(job.settings.chart, job.environment)
}

// collectAuthorities writes the authorities of the repository to one file. Without one, public authorities are valid.
func (job *releaseJob) collectAuthorities() (string, error) {
	files, err := filepath.Glob(repositoryCAs)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(repositoryCA); err == nil {
		files = append(files, repositoryCA)
	}
	if job.settings.fromCluster {
		files = append(files, clusterCA)
	}
	if len(files) == 0 {
		return "", nil
	}
	var all []byte
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		all = slices.Concat(all, content, []byte("\n"))
	}
	return authoritiesFile, os.WriteFile(authoritiesFile, all, 0o600)
}

// readAccount reads the account or the certificate for a repository, if there is one.
func readAccount(options *action.ChartPathOptions) error {
	certificate, key := filepath.Join(accountFolder, "tls.crt"), filepath.Join(accountFolder, "tls.key")
	user, errUser := os.ReadFile(filepath.Join(accountFolder, "username"))
	password, errPassword := os.ReadFile(filepath.Join(accountFolder, "password"))
	if errUser == nil && errPassword == nil {
		options.Username, options.Password = string(user), string(password)
		return nil
	}
	_, errCertificate := os.Stat(certificate)
	_, errKey := os.Stat(key)
	if errCertificate == nil && errKey == nil {
		options.CertFile, options.KeyFile = certificate, key
		return nil
	}
	if _, err := os.Stat(accountFolder); err == nil {
		return errors.New("authSecret has neither `username` and `password` nor `tls.crt` and `tls.key`")
	}
	return nil
}

// registryClient returns a client for charts in OCI registries. It knows the accounts of dockerRegistrySecret.
func (job *releaseJob) registryClient(options *action.ChartPathOptions) (*registry.Client, error) {
	trust := &tls.Config{InsecureSkipVerify: options.InsecureSkipTLSVerify, MinVersion: tls.VersionTLS12}
	if options.CaFile != "" {
		content, err := os.ReadFile(options.CaFile)
		if err != nil {
			return nil, err
		}
		trust.RootCAs = x509.NewCertPool()
		if !trust.RootCAs.AppendCertsFromPEM(content) {
			return nil, errors.New("repoCA contains no certificate")
		}
	}
	if options.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(options.CertFile, options.KeyFile)
		if err != nil {
			return nil, err
		}
		trust.Certificates = []tls.Certificate{pair}
	}
	settings := []registry.ClientOption{
		registry.ClientOptHTTPClient(&http.Client{
			Transport: &http.Transport{TLSClientConfig: trust, Proxy: http.ProxyFromEnvironment},
		}),
		registry.ClientOptCredentialsFile(job.environment.RegistryConfig),
		registry.ClientOptBasicAuth(options.Username, options.Password),
	}
	if options.PlainHTTP {
		settings = append(settings, registry.ClientOptPlainHTTP())
	}
	return registry.NewClient(settings...)
}
