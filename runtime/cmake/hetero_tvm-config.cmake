# CMake package of the C API: find_package(hetero_tvm REQUIRED), then link hetero_tvm::runtime.
#
#   cmake -Dhetero_tvm_DIR=<this folder> -DPython3_EXECUTABLE=<the Python that has hetero_tvm> ...
#
# For another machine, and wherever the libraries of a deployment lie together in one folder:
#   cmake -Dhetero_tvm_DIR=<this folder> -DHETERO_TVM_LIBRARIES_DIR=<that folder> ...
get_filename_component(_hetero_root "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)

if(HETERO_TVM_LIBRARIES_DIR)
  set(_hetero_library "${HETERO_TVM_LIBRARIES_DIR}/libhetero_runtime.so")
  set(_hetero_tvm "${HETERO_TVM_LIBRARIES_DIR}/libtvm_runtime.so"
                  "${HETERO_TVM_LIBRARIES_DIR}/libtvm_ffi.so")
else()
  # In a wheel this folder is hetero_tvm/lib/runtime, in a source tree it lies beside hetero_tvm/.
  foreach(_hetero_folder "${_hetero_root}/.." "${_hetero_root}/../hetero_tvm/lib")
    if(EXISTS "${_hetero_folder}/libhetero_runtime.so")
      set(_hetero_library "${_hetero_folder}/libhetero_runtime.so")
    endif()
  endforeach()
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  set(_hetero_tvm "")
  foreach(_hetero_package tvm tvm_ffi)
    execute_process(
      COMMAND
        ${Python3_EXECUTABLE} -c
        "import importlib.util as u; print(u.find_spec('${_hetero_package}').submodule_search_locations[0])"
      OUTPUT_VARIABLE _hetero_folder
      OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
    list(APPEND _hetero_tvm "${_hetero_folder}/lib/lib${_hetero_package}.so")
  endforeach()
  list(TRANSFORM _hetero_tvm REPLACE "/libtvm.so$" "/libtvm_runtime.so")
endif()

if(NOT _hetero_library OR NOT EXISTS "${_hetero_library}")
  set(hetero_tvm_FOUND FALSE)
  set(hetero_tvm_NOT_FOUND_MESSAGE "libhetero_runtime.so is not built; pip install hetero-tvm")
  return()
endif()

if(NOT TARGET hetero_tvm::runtime)
  add_library(hetero_tvm::runtime SHARED IMPORTED)
  set_target_properties(
    hetero_tvm::runtime
    PROPERTIES IMPORTED_LOCATION "${_hetero_library}"
               INTERFACE_INCLUDE_DIRECTORIES "${_hetero_root}/include"
               # TVM's libraries are found through the program's own search path.
               INTERFACE_LINK_OPTIONS "LINKER:--no-as-needed"
               INTERFACE_LINK_LIBRARIES "${_hetero_tvm}")
endif()
