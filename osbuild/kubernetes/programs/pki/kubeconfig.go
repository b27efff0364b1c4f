package main

import "encoding/json"

// Kubeconfig files are YAML, which includes JSON (kubeconfig(v1), client-go's clientcmd/api/v1). []byte becomes base64.
type kubeconfigFile struct {
	APIVersion     string         `json:"apiVersion"`
	Kind           string         `json:"kind"`
	Clusters       []namedCluster `json:"clusters"`
	Users          []namedUser    `json:"users"`
	Contexts       []namedContext `json:"contexts"`
	CurrentContext string         `json:"current-context"`
}

type namedCluster struct {
	Name    string `json:"name"`
	Cluster struct {
		Server    string `json:"server"`
		Authority []byte `json:"certificate-authority-data"`
	} `json:"cluster"`
}

type namedUser struct {
	Name string `json:"name"`
	User struct {
		Certificate []byte `json:"client-certificate-data"`
		Key         []byte `json:"client-key-data"`
	} `json:"user"`
}

type namedContext struct {
	Name    string `json:"name"`
	Context struct {
		Cluster string `json:"cluster"`
		User    string `json:"user"`
	} `json:"context"`
}

func newKubeconfig(server, user string, authority, certificate, key []byte) *kubeconfigFile {
	file := &kubeconfigFile{
		APIVersion:     "v1",
		Kind:           "Config",
		Clusters:       []namedCluster{{Name: "default"}},
		Users:          []namedUser{{Name: user}},
		Contexts:       []namedContext{{Name: "default"}},
		CurrentContext: "default",
	}
	file.Clusters[0].Cluster.Server = server
	file.Clusters[0].Cluster.Authority = authority
	file.Users[0].User.Certificate = certificate
	file.Users[0].User.Key = key
	file.Contexts[0].Context.Cluster = "default"
	file.Contexts[0].Context.User = user
	return file
}

// parseKubeconfig parses a file of newKubeconfig. It returns nil for other files, which are created again.
func parseKubeconfig(content []byte) *kubeconfigFile {
	file := &kubeconfigFile{}
	if json.Unmarshal(content, file) != nil || len(file.Clusters) != 1 || len(file.Users) != 1 {
		return nil
	}
	return file
}
