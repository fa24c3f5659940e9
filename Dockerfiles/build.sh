#!/usr/bin/env bash
# Builds the images of one variant, or pushes them:   Dockerfiles/build.sh build|push cpu|cuda
#
#   BUILDER     docker, podman or buildah (default: docker)
#   BASE_IMAGE  Debian with python3 and venv (default: python:3.11-slim-bookworm)
#   IMAGES      registry and path before the names (default: docker.io/light-tts)
#   VERSION     the tag (default: the version in pyproject.toml)
#   TENSORRT    yes puts TensorRT into decode's CUDA variant
#   PLATFORMS   platforms of the gateway and of the CPU variant: linux/amd64,linux/arm64 (podman or buildah, with binfmt
#               handlers for foreign ones; default: this machine's). The CUDA variant is built for this machine's alone
#   EXTRAS      extras of all images (default: k8s,redis,otel; aac and c2pa are the others)
#   BUILD_FLAGS further arguments of every build, such as an index: --build-arg PIP_EXTRA_INDEX_URL=...
set -euo pipefail
cd "$(dirname "$0")/.."

action=${1:?build or push}
variant=${2:?cpu or cuda}
builder=${BUILDER:-docker}
images=${IMAGES:-docker.io/light-tts}
version=${VERSION:-$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)}
base=$images/light-tts-base:$version

read -ra flags <<<"${BUILD_FLAGS:-}"
if [[ -n ${BASE_IMAGE:-} ]]; then
  flags+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
fi

case $variant in
  cpu | cuda) ;;
  *) echo "the variant is $variant; it must be cpu or cuda" >&2; exit 2 ;;
esac

platforms=${PLATFORMS:-}
if [[ -n $platforms && $builder == docker ]]; then
  echo "PLATFORMS needs BUILDER=podman or BUILDER=buildah: docker builds several platforms only while it pushes" >&2
  exit 2
fi

several() {  # image: whether it is built for several platforms
  [[ -n $platforms && $1 != *:*-cuda ]]
}

build() {  # dockerfile, image, further arguments
  echo "building $2"
  local target=(-t "$2")
  if several "$2"; then
    "$builder" manifest rm "$2" 2>/dev/null || true  # the last build's; images would be added to it
    target=(--platform "$platforms" --manifest "$2")
  fi
  "$builder" build "${flags[@]}" "${@:3}" -f "Dockerfiles/$1.Dockerfile" "${target[@]}" .
}

push() {  # image
  if several "$1"; then
    "$builder" manifest push --all "$1" "docker://$1"
  else
    "$builder" push "$1"
  fi
}

case $action in
  build)
    build base "$base" --build-arg "EXTRAS=${EXTRAS:-k8s,redis,otel}"
    build base "$base-$variant" --build-arg "EXTRAS=${EXTRAS:-k8s,redis,otel},models" --build-arg "VARIANT=$variant"
    build gateway "$images/light-tts-gateway:$version" --build-arg "BASE=$base"
    for service in encode llm; do
      build "$service" "$images/light-tts-$service:$version-$variant" --build-arg "BASE=$base-$variant"
    done
    build decode "$images/light-tts-decode:$version-$variant" --build-arg "BASE=$base-$variant" \
      --build-arg "TENSORRT=${TENSORRT:-no}"
    ;;
  push)
    for image in gateway:$version {encode,llm,decode}:$version-$variant; do
      push "$images/light-tts-$image"
    done
    ;;
  *) echo "what to do is $action; it must be build or push" >&2; exit 2 ;;
esac
