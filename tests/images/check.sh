#!/usr/bin/env bash
# Builds the CPU images without any registry and lets containers of them speak:   make images-check
#
# Needs root on Debian 12 and the packages named below; installs them with INSTALL=yes. The base is made by debootstrap
# once and kept as an image. Encode, llm, a gateway and three decode containers run on one network, where the decode
# containers share an alias: one name with several addresses, as a headless Service has. They run as Kubernetes would
# run them: not root, nothing writable but /tmp, no capabilities.
set -euo pipefail
cd "$(dirname "$0")/../.."

packages=(buildah podman runc netavark aardvark-dns conmon catatonit uidmap debootstrap iptables)
base=${BASE_IMAGE:-docker.io/library/python:3.11-slim-bookworm}
images=${IMAGES:-docker.io/light-tts}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
network=light-tts-check
scratch=$(mktemp -d)
containers=()

finish() {
  local code=$?
  if ((code)); then
    for name in "${containers[@]}"; do
      echo "--- $name" && podman logs --tail 15 "$name" 2>&1 || true
    done
  fi
  podman rm --force --time 0 "${containers[@]}" >/dev/null 2>&1 || true
  podman network rm --force "$network" >/dev/null 2>&1 || true
  rm -rf "$scratch"
  exit "$code"
}
trap finish EXIT

require() {
  if [[ ${INSTALL:-no} == yes ]]; then
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
  fi
  local missing=()
  for package in "${packages[@]}"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
  done
  if ((${#missing[@]})); then
    echo "this needs ${missing[*]}: apt-get install --no-install-recommends ${missing[*]}, or INSTALL=yes" >&2
    exit 1
  fi
}

# What a container's own system would set up.
configure() {
  export CONTAINERS_CONF=$scratch/containers.conf
  cat >"$CONTAINERS_CONF" <<'CONF'
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
CONF
}

make_base() {
  podman image exists "$base" && return
  echo "making $base with debootstrap"
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$scratch/base" >"$scratch/log" \
    || { tail -n 20 "$scratch/log" >&2; return 1; }
  # What the slim images leave out too.
  rm -rf "$scratch"/base/var/{cache/apt,lib/apt/lists,log}/* "$scratch"/base/usr/share/{doc,man,locale,info}/*
  tar -C "$scratch/base" -c . | podman import - "$base" >/dev/null
  rm -rf "$scratch/base"
}

build() {
  local flags="--runtime runc --network host --pull-never --format docker"
  flags+=" --volume /etc/resolv.conf:/etc/resolv.conf:ro"
  flags+=" --volume /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt:ro"
  # pip in the build reads packages from where pip reads them here.
  if [[ -f /etc/pip.conf ]]; then
    flags+=" --volume /etc/pip.conf:/etc/pip.conf:ro"
  fi
  if [[ -d ${PIP_FIND_LINKS:-} ]]; then
    flags+=" --volume $PIP_FIND_LINKS:$PIP_FIND_LINKS:ro --build-arg PIP_FIND_LINKS=$PIP_FIND_LINKS"
  elif [[ -n ${TORCH_INDEX:-} ]]; then
    flags+=" --build-arg PIP_EXTRA_INDEX_URL=$TORCH_INDEX"
  fi
  BUILDER=buildah IMAGES=$images BUILD_FLAGS=$flags Dockerfiles/build.sh build cpu >"$scratch/build.log" 2>&1 \
    || { tail -n 40 "$scratch/build.log" >&2; return 1; }
}

run() {  # container, image, further arguments
  local name=light-tts-check-$1
  containers+=("$name")
  podman run --detach --name "$name" --network "$network" --read-only --tmpfs /tmp --cap-drop all \
    --security-opt no-new-privileges "${@:3}" "$images/light-tts-$2" >/dev/null
}

start() {
  podman network create "$network" >/dev/null
  run encode "encode:$version-cpu" --network-alias encode
  for number in 1 2 3; do
    run "decode-$number" "decode:$version-cpu" --network-alias decode --env "LIGHTTTS_WORKER_NAME=decode-$number"
  done
  run llm "llm:$version-cpu" --network-alias llm --env LIGHTTTS_DECODE_TARGET=dns:///decode:50061
  run gateway "gateway:$version" --network-alias gateway \
    --env LIGHTTTS_ENCODE_TARGET=dns:///encode:50051 --env LIGHTTTS_LLM_TARGET=dns:///llm:50052
}

say() {
  podman exec light-tts-check-gateway light-tts say "$@" --check --out /tmp/said.wav
}

# Starting takes seconds; until then the gateway has no workers.
speak_first() {
  say "Good morning, Alice, welcome to London." --wait 180
}

show_sizes() {
  for image in "base:$version" "base:$version-cpu" "gateway:$version" {encode,llm,decode}:"$version-cpu"; do
    printf '%-28s %6.0f MB\n' "light-tts-$image" \
      "$(podman image inspect --format '{{.Size}}' "$images/light-tts-$image" | awk '{print $1 / 1e6}')"
  done
  local size
  size=$(podman image inspect --format '{{.Size}}' "$images/light-tts-gateway:$version")
  ((size < 300000000)) || { echo "the gateway's image is larger than 300 MB" >&2; return 1; }
  podman run --rm --network none "$images/light-tts-gateway:$version" python -c \
    'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is not None)' \
    || { echo "the gateway's image holds torch" >&2; return 1; }
}

require
configure
make_base
build
show_sizes
start
echo "waiting until they serve"
speak_first >"$scratch/first" 2>&1 || { tail -n 5 "$scratch/first" >&2; exit 1; }
tail -n 5 "$scratch/first"
: >"$scratch/workers"
for number in 1 2 3 4 5 6; do
  say "Keep up the good work." >"$scratch/said"
  sed -n 's/^decode workers *\(.*[^ ]\) *$/\1/p' "$scratch/said" >>"$scratch/workers"
done
echo "decode workers that spoke the six utterances after it: $(sort "$scratch/workers" | uniq -c | xargs)"
[[ $(sort -u "$scratch/workers" | wc -l) == 3 ]] || { echo "not all three decode containers were used" >&2; exit 1; }
for name in "${containers[@]}"; do
  podman stop --time 30 "$name" >/dev/null
  code=$(podman inspect --format '{{.State.ExitCode}}' "$name")
  [[ $code == 0 ]] || { echo "$name ended with $code on SIGTERM" >&2; exit 1; }
done
echo "all six containers ended with 0 on SIGTERM"
