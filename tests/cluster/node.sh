#!/usr/bin/env bash
# A real Kubernetes of one or two nodes on one machine without systemd, for `make cluster-test KUBE_BIN=DIR`:
#
#   KUBE_BIN=DIR node.sh up [1|2]    certificates, etcd, API server, controllers, scheduler, kubelet(s), proxy, DNS
#   node.sh images FILE.tar...       put images (podman save) into every node
#   node.sh env                      print KUBECONFIG and PATH lines to eval
#   node.sh status                   what runs
#   node.sh stop NAME; start NAME    one component: apiserver, controllers, scheduler, kubelet1, proxy, dnsmasq ...
#   node.sh down                     end everything by pid, take away mounts, interfaces, iptables chains, cgroups
#
# KUBE_BIN holds kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy, kubectl; etcd, containerd
# (2.x for kubelets from 1.36 on), containerd-shim-runc-v2 and ctr may lie there too, else they come from PATH. STATE is where
# everything is kept (default: kube-state in the working directory). It needs root, and Debian's packages runc,
# containernetworking-plugins, iptables, conntrack, dnsmasq-base, catatonit, openssl and iproute2.
#
# With Kubernetes 1.36.2 and one node, the API server was ready after 7 s and the node 14 s after its kubelet. The second
# node has not been run. NOTE marks what machines without systemd or with few capabilities need.
set -euo pipefail
STATE=${STATE:-$PWD/kube-state}
KUBE_BIN=${KUBE_BIN:-$STATE/bin}
CGROUPS=${CGROUPS:-/sys/fs/cgroup}
export PATH=$KUBE_BIN:$PATH
NET=10.244              # nodes: NET.0.1 and NET.0.2 on a bridge of our own; pods: NET.0.0/16
SERVICES=10.96
BRIDGE=ltkube0
API=$NET.0.1:6443
mkdir -p "$STATE"/{pid,log,pki,etcd,cni1,cni2}

launch() {  # name, command...
  local name=$1; shift
  printf '%q ' "$@" >"$STATE/pid/$name.cmd"
  start "$name"
}
start() {
  local name=$1
  alive "$name" && return 0
  setsid bash -c "ulimit -n \$(ulimit -Hn); exec $(cat "$STATE/pid/$name.cmd")" >>"$STATE/log/$name" 2>&1 </dev/null &
  echo $! >"$STATE/pid/$name"
}
alive() { [[ -f $STATE/pid/$1 ]] && kill -0 "$(cat "$STATE/pid/$1")" 2>/dev/null; }
stop() {
  alive "$1" || return 0
  local pid; pid=$(cat "$STATE/pid/$1")
  kill "${2:--TERM}" "$pid" 2>/dev/null || true
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  kill -9 "$pid" 2>/dev/null || true
  rm -f "$STATE/pid/$1"
}
await() {  # seconds, command...
  local left=$1; shift
  until "$@" >/dev/null 2>&1; do ((left-- > 0)) || { echo "gave up waiting for: $*" >&2; return 1; }; sleep 1; done
}

pki() {
  cd "$STATE/pki"
  [[ -f ca.crt ]] && { cd - >/dev/null; return; }
  openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj /CN=kube-ca 2>/dev/null
  cert() {  # name, subject, alternative names
    openssl req -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2" 2>/dev/null
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$1.crt" \
      -extfile <(echo "extendedKeyUsage=serverAuth,clientAuth"; [[ -z ${3:-} ]] || echo "subjectAltName=$3") 2>/dev/null
  }
  cert api /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:$NET.0.1,IP:$SERVICES.0.1"
  cert front /CN=front-proxy
  cert apiclient /O=system:masters/CN=kube-apiserver-kubelet-client
  openssl genrsa -out sa.key 2048 2>/dev/null
  openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
  who() {  # file, subject
    cert "$1" "$2"
    cat >"$1.conf" <<CONF
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://$API", certificate-authority: $STATE/pki/ca.crt}}]
users: [{name: u, user: {client-certificate: $STATE/pki/$1.crt, client-key: $STATE/pki/$1.key}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
CONF
  }
  who admin /O=system:masters/CN=admin
  who controllers /CN=system:kube-controller-manager
  who scheduler /CN=system:kube-scheduler
  who proxy /CN=system:kube-proxy
  who node1 /O=system:nodes/CN=system:node:node1
  who node2 /O=system:nodes/CN=system:node:node2
  cd - >/dev/null
}

network() {
  ip link show $BRIDGE >/dev/null 2>&1 || ip link add $BRIDGE type bridge
  ip addr replace $NET.0.1/16 dev $BRIDGE
  ip addr replace $NET.0.2/16 dev $BRIDGE
  ip link set $BRIDGE up
  sysctl -qw net.ipv4.ip_forward=1
  sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true
  iptables -C FORWARD -i $BRIDGE -o $BRIDGE -j ACCEPT 2>/dev/null || iptables -I FORWARD -i $BRIDGE -o $BRIDGE -j ACCEPT
  # Nothing of the pods leaves this machine.
  iptables -C FORWARD -i $BRIDGE ! -o $BRIDGE -j REJECT 2>/dev/null || iptables -A FORWARD -i $BRIDGE ! -o $BRIDGE -j REJECT
  for n in 1 2; do
    cat >"$STATE/cni$n/10-bridge.conflist" <<CONF
{"cniVersion": "0.4.0", "name": "pods$n", "plugins": [{"type": "bridge", "bridge": "$BRIDGE", "isGateway": false,
 "hairpinMode": true, "ipam": {"type": "host-local", "dataDir": "$STATE/ipam$n",
 "ranges": [[{"subnet": "$NET.0.0/16", "rangeStart": "$NET.$n.2", "rangeEnd": "$NET.$n.250", "gateway": "$NET.0.1"}]],
 "routes": [{"dst": "0.0.0.0/0"}]}}]}
CONF
  done
}

apiserver() {
  launch etcd etcd --name e --data-dir "$STATE/etcd" --unsafe-no-fsync --listen-client-urls http://127.0.0.1:23790 \
    --advertise-client-urls http://127.0.0.1:23790 --listen-peer-urls http://127.0.0.1:23800 --initial-advertise-peer-urls \
    http://127.0.0.1:23800 --initial-cluster e=http://127.0.0.1:23800
  local p=$STATE/pki
  launch apiserver kube-apiserver --etcd-servers=http://127.0.0.1:23790 --bind-address=$NET.0.1 --secure-port=6443 \
    --advertise-address=$NET.0.1 --service-cluster-ip-range=$SERVICES.0.0/16 --authorization-mode=Node,RBAC \
    --enable-admission-plugins=NodeRestriction --allow-privileged=true --client-ca-file="$p/ca.crt" \
    --tls-cert-file="$p/api.crt" --tls-private-key-file="$p/api.key" --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file="$p/sa.pub" --service-account-signing-key-file="$p/sa.key" \
    --kubelet-client-certificate="$p/apiclient.crt" --kubelet-client-key="$p/apiclient.key" \
    --kubelet-preferred-address-types=InternalIP --requestheader-client-ca-file="$p/ca.crt" \
    --requestheader-allowed-names=front-proxy --requestheader-username-headers=X-Remote-User \
    --requestheader-group-headers=X-Remote-Group --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --proxy-client-cert-file="$p/front.crt" --proxy-client-key-file="$p/front.key" --enable-aggregator-routing=true \
    ${API_FLAGS:-}
  export KUBECONFIG=$p/admin.conf
  await 180 kubectl get --raw /readyz
  launch controllers kube-controller-manager --kubeconfig="$p/controllers.conf" --authentication-kubeconfig="$p/controllers.conf" \
    --authorization-kubeconfig="$p/controllers.conf" --root-ca-file="$p/ca.crt" --service-account-private-key-file="$p/sa.key" \
    --use-service-account-credentials=true --leader-elect=false --bind-address=127.0.0.1 ${CONTROLLER_FLAGS:-}
  launch scheduler kube-scheduler --kubeconfig="$p/scheduler.conf" --authentication-kubeconfig="$p/scheduler.conf" \
    --authorization-kubeconfig="$p/scheduler.conf" --leader-elect=false --bind-address=127.0.0.1
}

node() {  # number
  local n=$1 d=$STATE/node$1
  mkdir -p "$d"
  : >"$d/resolv.conf"
  cat >"$d/containerd.toml" <<CONF
version = 3
root = "$d/containerd"
state = "$d/containerd-run"
[grpc]
  address = "$d/containerd.sock"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "localhost/pause:1"
[plugins.'io.containerd.cri.v1.runtime']
  # NOTE: CAP_SYS_RESOURCE is missing, and there is no AppArmor.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "$STATE/cni$n"
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "/usr/sbin/runc"
CONF
  cat >"$d/kubelet.yaml" <<CONF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration

failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /ltkube$n
cgroupsPerQOS: true
enforceNodeAllocatable: []
failSwapOn: false

maxOpenFiles: 20000
oomScoreAdj: 0
port: $((10250 + n * 100))
healthzPort: $((10248 + n * 100))
address: $NET.0.$n
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $STATE/pki/ca.crt}}
authorization: {mode: Webhook}
clusterDNS: [$NET.0.1]
clusterDomain: cluster.local
resolvConf: $d/resolv.conf
containerRuntimeEndpoint: unix://$d/containerd.sock
staticPodPath: ""
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
CONF
  mkdir -p "$CGROUPS"/{cpu,cpuacct,cpuset,memory,pids,devices,freezer,blkio,systemd}/ltkube$n 2>/dev/null || true
  for f in cpus mems; do
    [[ -f $CGROUPS/cpuset/cpuset.$f ]] && cat "$CGROUPS/cpuset/cpuset.$f" >"$CGROUPS/cpuset/ltkube$n/cpuset.$f" || true
  done
  launch containerd$n containerd --config "$d/containerd.toml"
  await 60 ctr --address "$d/containerd.sock" version
  if ! ctr --address "$d/containerd.sock" -n k8s.io images ls -q | grep -q localhost/pause:1; then
    pause_image; ctr --address "$d/containerd.sock" -n k8s.io images import "$STATE/pause.tar" >/dev/null
  fi
  launch kubelet$n env AWS_EC2_METADATA_DISABLED=true kubelet --config="$d/kubelet.yaml" --kubeconfig="$STATE/pki/node$n.conf" \
    --hostname-override=node$n --node-ip=$NET.0.$n --root-dir="$d/kubelet" --cert-dir="$d/pki"
}

# An image of catatonit alone, written by hand as a docker archive.
pause_image() {
  [[ -f $STATE/pause.tar ]] && return
  local t; t=$(mktemp -d)
  mkdir -p "$t/root" && cp /usr/bin/catatonit "$t/root/pause" && tar -C "$t/root" -cf "$t/layer.tar" pause
  local sum; sum=$(sha256sum "$t/layer.tar" | cut -d' ' -f1)
  echo "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"Entrypoint\":[\"/pause\",\"-P\"]},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:$sum\"]}}" >"$t/config.json"
  echo '[{"Config":"config.json","RepoTags":["localhost/pause:1"],"Layers":["layer.tar"]}]' >"$t/manifest.json"
  tar -C "$t" -cf "$STATE/pause.tar" config.json manifest.json layer.tar
  rm -rf "$t"
}

# Cluster DNS without coredns: names of Services from the API into a hosts file of dnsmasq.
dns() {
  cat >"$STATE/dns.py" <<'PY'
import json, os, signal, subprocess, sys, time
state, pidfile = sys.argv[1], sys.argv[2]
old = None
while True:
    try:
        services = json.loads(subprocess.check_output(["kubectl", "get", "services", "-A", "-o", "json"]))["items"]
        slices = json.loads(subprocess.check_output(["kubectl", "get", "endpointslices", "-A", "-o", "json"]))["items"]
        lines = []
        for s in services:
            m, ip = s["metadata"], s["spec"].get("clusterIP")
            name = f"{m['name']}.{m['namespace']}.svc.cluster.local"
            if ip != "None":
                lines.append(f"{ip} {name}")
                continue
            for e in slices:
                if (e["metadata"]["namespace"] == m["namespace"] and e["metadata"].get("labels", {}).get("kubernetes.io/service-name") == m["name"]):
                    lines += [f"{a} {name}" for p in e.get("endpoints") or [] if p["conditions"].get("ready") for a in p["addresses"]]
        text = "\n".join(sorted(lines)) + "\n"
        if text != old:
            open(state + "/hosts.new", "w").write(text)
            os.replace(state + "/hosts.new", state + "/hosts")
            os.kill(int(open(pidfile).read()), signal.SIGHUP)
            old = text
    except Exception as error:
        print(error, flush=True)
    time.sleep(0.5)
PY
  touch "$STATE/hosts"
  launch dnsmasq dnsmasq --keep-in-foreground --no-resolv --no-hosts --addn-hosts="$STATE/hosts" --listen-address=$NET.0.1 \
    --bind-interfaces --local-ttl=1 --local=/cluster.local/ --conf-file=/dev/null --pid-file= --user=root
  launch dnsfeed env KUBECONFIG="$STATE/pki/admin.conf" python3 "$STATE/dns.py" "$STATE" "$STATE/pid/dnsmasq"
}

proxy() {
  launch proxy kube-proxy --kubeconfig="$STATE/pki/proxy.conf" --hostname-override=node1 --cluster-cidr=$NET.0.0/16 \
    --proxy-mode=iptables --conntrack-max-per-core=0 --healthz-bind-address=127.0.0.1:10356 --metrics-bind-address=127.0.0.1:10349
}

up() {
  local nodes=${1:-1}
  pki; network; apiserver
  for n in $(seq "$nodes"); do node "$n"; done
  proxy; dns
  export KUBECONFIG=$STATE/pki/admin.conf
  for n in $(seq "$nodes"); do
    await 120 kubectl wait --for=condition=Ready node/node$n --timeout=5s
  done
  kubectl get nodes -o wide
}

images() {
  for d in "$STATE"/node*/; do
    for f in "$@"; do ctr --address "$d/containerd.sock" -n k8s.io images import "$f" | tail -1; done
  done
}

down() {
  export KUBECONFIG=$STATE/pki/admin.conf
  if alive apiserver && alive kubelet1; then
    kubectl get ns -o name | grep -v -E '/(default|kube-.*)$' | xargs -r timeout 150 kubectl delete --wait=true --timeout=140s || true
  fi
  for c in kubelet1 kubelet2; do stop $c; done
  for d in "$STATE"/node*/; do
    [[ -S $d/containerd.sock ]] || continue
    local tasks; tasks=$(timeout 10 ctr --address "$d/containerd.sock" -n k8s.io tasks ls -q 2>/dev/null || true)
    for t in $tasks; do timeout 10 ctr --address "$d/containerd.sock" -n k8s.io tasks kill -s KILL "$t" 2>/dev/null || true; done
    sleep 1
    for t in $tasks; do timeout 10 ctr --address "$d/containerd.sock" -n k8s.io tasks rm -f "$t" 2>/dev/null || true; done
  done
  for c in dnsfeed dnsmasq proxy; do stop $c; done
  kube-proxy --cleanup >/dev/null 2>&1 || true
  for c in scheduler controllers apiserver etcd containerd1 containerd2; do stop $c; done
  grep -o " $STATE[^ ]*" /proc/mounts | sort -r | xargs -r -n1 umount -l 2>/dev/null || true
  iptables -D FORWARD -i $BRIDGE -o $BRIDGE -j ACCEPT 2>/dev/null || true
  iptables -D FORWARD -i $BRIDGE ! -o $BRIDGE -j REJECT 2>/dev/null || true
  for t in filter nat mangle; do
    for c in $(iptables -t $t -S 2>/dev/null | grep -o -E '^-N KUBE-[^ ]+' | cut -d' ' -f2); do
      iptables -t $t -S | grep -E "^-A .*-j $c\b" | sed 's/^-A/-D/' | while read -r rule; do eval "iptables -t $t $rule" 2>/dev/null || true; done || true
    done
    for c in $(iptables -t $t -S 2>/dev/null | grep -o -E '^-N KUBE-[^ ]+' | cut -d' ' -f2); do iptables -t $t -F "$c" || true; done
    for c in $(iptables -t $t -S 2>/dev/null | grep -o -E '^-N KUBE-[^ ]+' | cut -d' ' -f2); do iptables -t $t -X "$c" 2>/dev/null || true; done
  done
  ip link del $BRIDGE 2>/dev/null || true
  find "$CGROUPS"/*/ltkube* -depth -type d -exec rmdir {} \; 2>/dev/null || true
  echo "down; the state is in $STATE"
}

case ${1:-} in
  up) up "${2:-1}" ;;
  node) export KUBECONFIG=$STATE/pki/admin.conf; node "$2" ;;
  images) shift; images "$@" ;;
  env) echo "export KUBECONFIG=$STATE/pki/admin.conf PATH=$KUBE_BIN:\$PATH" ;;
  status) for f in "$STATE"/pid/*.cmd; do c=$(basename "$f" .cmd); alive "$c" && echo "$c $(cat "$STATE/pid/$c")" || echo "$c -"; done ;;
  start) start "$2" ;;
  stop) stop "$2" "${3:--TERM}" ;;
  apiserver) pki; network; apiserver ;;
  down) down ;;
  *) sed -n '2,/^set /p' "$0" | sed 's/^# \{0,1\}//;$d'; exit 2 ;;
esac
