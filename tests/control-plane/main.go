// Command control-plane is a small real Kubernetes control plane for tests: etcd, the API server and the controllers
// that make EndpointSlices and delete namespaces. Each part runs as its own process, because each sets up the process-wide
// logging and feature gates for itself.
package main

import (
	"fmt"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

const usage = `usage: control-plane PART [FLAGS]

parts:
  etcd         etcd, with its own flags
  apiserver    kube-apiserver, with its own flags
  controllers  the EndpointSlice and namespace controllers; -kubeconfig FILE
  key          writes a new key for service account tokens; FILE
  pki          writes keys and certificates for a cluster with kubelets; FOLDER
  relay        leads connections to a port of this machine into a network namespace; see relay -help
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	part, arguments := os.Args[1], os.Args[2:]
	switch part {
	case "etcd":
		etcdmain.Main(append([]string{"etcd"}, arguments...))
	case "apiserver":
		os.Args = append([]string{"kube-apiserver"}, arguments...)
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "controllers":
		exitOn(runControllers(arguments))
	case "key":
		exitOn(writeKey(arguments))
	case "pki":
		exitOn(writePKI(arguments))
	case "relay":
		exitOn(runRelay(arguments))
	default:
		fmt.Fprintf(os.Stderr, "control-plane: %q is no part\n\n%s", part, usage)
		os.Exit(2)
	}
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "control-plane %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}
