/*!
 * \file device/artefact.h
 * \brief What an artefact says about itself, checked before any of its code is loaded.
 *
 * The same format as hetero_tvm/bundle.py writes: [ library | manifest | sha256, length, magic ].
 */
#ifndef HETERO_TVM_DEVICE_ARTEFACT_H_
#define HETERO_TVM_DEVICE_ARTEFACT_H_

#include <tvm/ffi/extra/module.h>

#include <cstdint>
#include <string>
#include <vector>

namespace hetero_tvm::device {

struct Border {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<int64_t> axes;  // of an output: how its memory is permuted; empty: not
};

struct Artefact {
  std::string path;
  std::string function;
  std::vector<Border> inputs;
  std::vector<Border> outputs;
};

/*!
 * \brief Read and check every byte of the artefact at `path`.
 *
 * Throws ValueError where it is none, is damaged, or is of another format.
 */
Artefact ReadArtefact(const std::string& path);

/*! \brief Load the code of the checked artefact at `path`, its kernels and NPU sessions made. */
tvm::ffi::Module LoadChecked(const std::string& path);

}  // namespace hetero_tvm::device

#endif  // HETERO_TVM_DEVICE_ARTEFACT_H_
