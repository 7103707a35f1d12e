/*!
 * \file device/artefact.cc
 * \brief The last program of a checked manifest; loading with everything in it built.
 */
#include "artefact.h"

#include "../src/imported.h"
#include "../src/shared_module.h"

namespace hetero_tvm::device {

using runtime::Manifest;

runtime::Program ReadArtefact(const std::string& path) {
  // Built for several lengths: the last one is the longest.
  return Manifest::ReadModel(path).programs.back();
}

tvm::ffi::Module LoadChecked(const std::string& path) {
  ReadArtefact(path);
  tvm::ffi::Module module = runtime::LoadModule(path);
  runtime::Imported("hetero_tvm.module_prepare")(module);
  return module;
}

}  // namespace hetero_tvm::device
