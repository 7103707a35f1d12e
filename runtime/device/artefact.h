/*!
 * \file device/artefact.h
 * \brief What an artefact says about itself, checked before any of its code is loaded.
 *
 * The same format as hetero_tvm/bundle.py writes: [ library | manifest | sha256, length, magic ].
 */
#ifndef HETERO_TVM_DEVICE_ARTEFACT_H_
#define HETERO_TVM_DEVICE_ARTEFACT_H_

#include <tvm/ffi/extra/module.h>

#include <string>

#include "../src/c_api/manifest.h"

namespace hetero_tvm::device {

using Border = runtime::BorderTensor;

/*!
 * \brief Read and check every byte of the artefact at `path`; what runs in it.
 *
 * Throws ValueError where it is none, is damaged, is of another format or for another machine.
 */
runtime::Program ReadArtefact(const std::string& path);

/*! \brief Load the code of the checked artefact at `path`, its kernels and NPU sessions made. */
tvm::ffi::Module LoadChecked(const std::string& path);

}  // namespace hetero_tvm::device

#endif  // HETERO_TVM_DEVICE_ARTEFACT_H_
