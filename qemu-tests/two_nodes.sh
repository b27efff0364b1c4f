# Two nodes of one cluster in network namespaces, with the programs of the built image: control plane and pod network of a
# server, the pod network of an agent node that joins. A pod of one asks a pod of the other, by address and by service.
#
# PODS, SERVICES: the ranges of the cluster. SERVER, AGENT: the nodes' addresses, each with commas between families.
# FAMILIES: 4, 6 or both. BACKEND: flannel's backend. With TRANSLATED, an address of the server's network, the agent node is
# behind a router that translates addresses and forwards no port; the others know it by that address.
export PATH=/usr/sbin:/usr/bin KUBECONFIG=/run/server/var/lib/kubernetes/admin.conf
lib=/usr/lib/edge-osbuild

fail() { echo "$@"; tail -n 15 /run/*.log; exit 1; }

wait_for() { # SECONDS COMMAND...
    end=$(($(date +%s) + $1)); shift
    until "$@" > /run/wait 2>&1; do
        [ "$(date +%s)" -lt "$end" ] || fail "timed out: $* $(cat /run/wait)"
        sleep 0.5
    done
}

make_root() { # NAME SETTINGS
    mkdir -p "/run/$1/usr/lib/edge-osbuild" "/run/$1/etc/edge-osbuild" "/run/$1/run/kine" "/run/$1/etc/kubernetes"
    for program in edge-node edge-pki addons; do ln -s "$lib/$program" "/run/$1/usr/lib/edge-osbuild/$program"; done
    echo "$2" > "/run/$1/usr/lib/edge-osbuild/kubernetes.json"
    echo "127.0.0.1 localhost" > "/run/$1/etc/hosts"
    ln -s /run/server/var/lib/kubernetes/admin.conf "/run/$1/etc/kubernetes/admin.conf"
}

choose() { # NAME PLAN PROGRAMS: a plan with some of a node's programs
    python3 - "$@" << 'PY'
import json, sys
name, plan, *chosen = sys.argv[1:]
folder = f"/run/{name}/run/edge-osbuild/kubernetes"
content = json.load(open(f"{folder}/{plan}.json"))
content["programs"] = {program: content["programs"][program] for program in chosen}
json.dump(content, open(f"{folder}/{plan}-chosen.json", "w"))
PY
}

add_pod() { # NAMESPACE-OF-NODE ROOT POD: add a pod with the CNI configuration of the node, and print its addresses
    ip netns add "$3"
    ip netns exec "$3" ip link set lo up
    python3 - "/run/$2/etc/cni/net.d/10-edge.conflist" > "/run/$3.conf" << 'PY'
import json, sys
config = json.load(open(sys.argv[1]))
print(json.dumps({"cniVersion": config["cniVersion"], "name": config["name"], **config["plugins"][0]}))
PY
    env CNI_COMMAND=ADD CNI_CONTAINERID="$3" CNI_NETNS="/var/run/netns/$3" CNI_IFNAME=eth0 CNI_PATH=/usr/lib/cni \
        ip netns exec "$1" /usr/lib/cni/bridge < "/run/$3.conf" > "/run/$3.json" || fail "$(cat "/run/$3.json")"
    python3 -c "import json; print(*(item['address'].split('/')[0] for item in json.load(open('/run/$3.json'))['ips']))"
}

ask() { # POD ADDRESS: what the web server at an address answers
    case $2 in *:*) host="[$2]" ;; *) host=$2 ;; esac
    ip netns exec "$1" python3 -c "
import urllib.request
print(urllib.request.urlopen('http://$host:8080/name', timeout=3).read().decode().strip())"
}

mkdir -p /var/run/netns
for name in server agent; do
    ip netns add "$name"
    ip netns exec "$name" ip link set lo up
done
if [ -n "${TRANSLATED:-}" ]; then
    ip netns add router
    ip link add lan0 netns server type veth peer name wan0 netns router
    ip link add lan0 netns agent type veth peer name lan0 netns router
else
    ip link add lan0 netns server type veth peer name lan0 netns agent
fi
for name in server agent; do
    addresses=$SERVER; [ "$name" = server ] || addresses=$AGENT
    for address in $(echo "$addresses" | tr , ' '); do
        case $address in
            *:*) ip netns exec "$name" ip address add "$address/64" dev lan0 nodad ;;
            *) ip netns exec "$name" ip address add "$address/24" dev lan0 ;;
        esac
    done
    ip netns exec "$name" ip link set lan0 up
done
if [ -n "${TRANSLATED:-}" ]; then
    for name in lo lan0 wan0; do ip netns exec router ip link set "$name" up; done
    ip netns exec router ip address add "$TRANSLATED/24" dev wan0
    ip netns exec router ip address add "${AGENT%.*}.254/24" dev lan0
    ip netns exec router sysctl -q net.ipv4.ip_forward=1
    ip netns exec router nft "add table ip nat; add chain ip nat post { type nat hook postrouting priority srcnat; };
        add rule ip nat post oifname wan0 masquerade"
    ip netns exec agent ip route add default via "${AGENT%.*}.254"
fi

common="\"cluster-cidr\": \"$PODS\", \"service-cidr\": \"$SERVICES\", \"flannel-backend\": \"${BACKEND:-vxlan}\""
external() { # ADDRESS: the options of a node that others know by another address
    [ -z "${TRANSLATED:-}" ] || echo ", \"flannel-external-ip\": true, \"node-external-ip\": \"$1\""
}
make_root server "{\"role\": \"server\", \"token\": \"a secret that both know\", \"node_ip\": \"$SERVER\",
    \"config\": {\"node-name\": \"server\", $common$(external "$SERVER")}}"
edge-agent kubernetes --root /run/server prepare
choose server server kine kube-apiserver kube-controller-manager
ip netns exec server edge-kubernetes run /run/server/run/edge-osbuild/kubernetes/server-chosen.json > /run/server.log 2>&1 &
wait_for 300 ip netns exec server kubectl get --raw /readyz
kube() { ip netns exec server kubectl "$@"; }
# It fails at its last step, the label of the node, because there is no Node yet.
ip netns exec server edge-agent kubernetes --root /run/server tokens > /run/tokens.log 2>&1 ||
    grep -q 'nodes "server" not found' /run/tokens.log || fail "no join tokens"
arguments=$(sed s/^ARGS=// /run/server/run/edge-osbuild/kubernetes/join.env)
ip netns exec server "$lib/edge-node" $arguments > /run/approve.log 2>&1 &

last=${SERVER##*,}
case $last in *:*) last="[$last]" ;; esac
token=$(cat /run/server/var/lib/kubernetes/server/token)
make_root agent "{\"role\": \"agent\", \"token\": \"$token\", \"server\": \"https://$last:6443\", \"node_ip\": \"$AGENT\",
    \"config\": {\"node-name\": \"agent\", $common$(external "${TRANSLATED:-}")}}"
edge-agent kubernetes --root /run/agent prepare
ip netns exec agent edge-agent kubernetes --root /run/agent join --patience 60
echo "joined at $last"

for name in server agent; do # what the kubelets would do
    addresses=$SERVER; [ "$name" = server ] || addresses=$AGENT
    echo "{\"apiVersion\": \"v1\", \"kind\": \"Node\", \"metadata\": {\"name\": \"$name\",
        \"annotations\": {\"example.com/node\": \"yes\"}}}" | kube create -f - > /dev/null
    list=$(for one in $(echo "$addresses" | tr , ' '); do printf '{"type": "InternalIP", "address": "%s"},' "$one"; done)
    kube patch node "$name" --subresource=status --type=merge -p "{\"status\": {\"addresses\": [${list%,}]}}" > /dev/null
done
wait_for 60 sh -c 'ip netns exec server kubectl get nodes -o jsonpath="{.items[*].spec.podCIDRs}" | grep -q "\].*\]"'
echo "ranges $(kube get nodes -o jsonpath='{.items[*].spec.podCIDRs}')"

choose server node kube-proxy edge-network
choose agent node local-api kube-proxy edge-network
for name in server agent; do
    ip netns exec $name edge-kubernetes run /run/$name/run/edge-osbuild/kubernetes/node-chosen.json > /run/$name-node.log 2>&1 &
done
for name in server agent; do wait_for 90 grep -q "Pods are connected" /run/$name-node.log; done

one=$(add_pod server server pod-one)
two=$(add_pod agent agent pod-two)
mkdir /run/web; echo "pod two" > /run/web/name
ip netns exec pod-two python3 -m http.server --bind :: --directory /run/web 8080 > /run/web.log 2>&1 &
echo "pods at $one and $two"
for address in $two; do wait_for 60 ask pod-one "$address"; echo "$address answers $(ask pod-one "$address")"; done

policy=SingleStack; [ "$FAMILIES" != both ] || policy=RequireDualStack
echo "{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {\"name\": \"web\"},
    \"spec\": {\"ipFamilyPolicy\": \"$policy\", \"ports\": [{\"port\": 8080}]}}" | kube create -f - > /dev/null
for address in $two; do
    family=IPv4; case $address in *:*) family=IPv6 ;; esac
    echo "{\"apiVersion\": \"discovery.k8s.io/v1\", \"kind\": \"EndpointSlice\", \"addressType\": \"$family\",
        \"metadata\": {\"name\": \"web-$(echo $family | tr A-Z a-z)\", \"labels\": {\"kubernetes.io/service-name\": \"web\"}},
        \"ports\": [{\"port\": 8080, \"protocol\": \"TCP\", \"name\": \"\"}], \"endpoints\": [{\"addresses\": [\"$address\"]}]}" | kube create -f - > /dev/null
done
for address in $(kube get service web -o jsonpath='{.spec.clusterIPs[*]}'); do
    wait_for 60 ask pod-one "$address"
    echo "service $address answers $(ask pod-one "$address")"
done
kube apply --server-side -f /run/server/run/edge-osbuild/kubernetes/addons/coredns.yaml > /dev/null
echo "dns $(kube get service -n kube-system kube-dns -o jsonpath='{.spec.clusterIPs}')"
