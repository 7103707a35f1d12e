/*!
 * \file code_path.h
 * \brief The name under which a shared library is opened.
 */
#ifndef HETERO_TVM_RUNTIME_CODE_PATH_H_
#define HETERO_TVM_RUNTIME_CODE_PATH_H_

#include <string>

namespace hetero_tvm::runtime {

/*!
 * \brief An absolute path of the file that lies at `path` now; also for a bare name.
 *
 * The dynamic loader takes a library for one that is open when it was opened by the same name,
 * though another file has been put in its place since: a model that was built again would run its
 * old code. So each file that this process finds under a path gets a spelling of its own. The same
 * file keeps its spelling. Thread-safe.
 */
std::string CodePath(const std::string& path);

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_CODE_PATH_H_
