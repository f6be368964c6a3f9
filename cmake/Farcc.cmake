# Puts farcc in front of the compilers of a CMake build, without an edit of the project:
#
#   cmake -S . -B build -DCMAKE_PROJECT_TOP_LEVEL_INCLUDES=/path/to/Farcc.cmake     CMake 3.24 and later
#   cmake -S . -B build -DCMAKE_PROJECT_INCLUDE_BEFORE=/path/to/Farcc.cmake         CMake 3.15 and later
#
# Reads:   FARCC_LAUNCHER   path of the farcc program; else it is looked for beside this file, in ../bin, in the
#                           PATH, and in the target directory of the clone that this file lies in.
# Sets:    CMAKE_<LANG>_COMPILER_LAUNCHER for the languages that farcc knows, unless the user set it, and the global
#          property RULE_LAUNCH_LINK, for links and archives, unless it is set. -DFARCC_LINKS=OFF, or the same in the environment,
#          leaves that alone.
# Writes:  .farcc-roots in the build directory: source and build directory, a line each, which are the workspace of
#          `[exec] paths = "shared"`.
#
# Where no farcc is found, the build goes on without it and a warning says so. Custom commands are not touched.

if(CMAKE_VERSION VERSION_LESS 3.15)
  message(WARNING "farcc: CMake ${CMAKE_VERSION} is too old, 3.15 is needed: the build goes on without farcc")
  return()
endif()

# A file that is included before each project() runs again for nested projects; the first time counts for all.
get_property(farcc_is_set_up GLOBAL PROPERTY FARCC_IS_SET_UP)
if(farcc_is_set_up)
  return()
endif()
set_property(GLOBAL PROPERTY FARCC_IS_SET_UP TRUE)

set(farcc_module_directory "${CMAKE_CURRENT_LIST_DIR}")

function(farcc_find_launcher result)
  set(launcher "${FARCC_LAUNCHER}")
  if(launcher AND NOT IS_ABSOLUTE "${launcher}")
    # CMake would take it as relative to each build directory in turn.
    get_filename_component(launcher "${launcher}" ABSOLUTE BASE_DIR "${CMAKE_BINARY_DIR}")
  endif()
  if(launcher AND NOT EXISTS "${launcher}")
    message(WARNING "farcc: FARCC_LAUNCHER names ${launcher}, which does not exist")
    set(launcher "")
  endif()
  if(NOT launcher)
    # Not find_program: a user's search-path settings for libraries and cross compiling must not apply, and
    # nothing is to be remembered in the cache after farcc has moved.
    set(directories "${farcc_module_directory}" "${farcc_module_directory}/../bin")
    string(REPLACE ":" ";" path "$ENV{PATH}")
    list(APPEND directories ${path})
    foreach(profile release debug)
      list(APPEND directories "${farcc_module_directory}/../target/${profile}")
    endforeach()
    foreach(directory IN LISTS directories)
      if(EXISTS "${directory}/farcc" AND NOT IS_DIRECTORY "${directory}/farcc")
        get_filename_component(launcher "${directory}/farcc" ABSOLUTE)
        break()
      endif()
    endforeach()
  endif()
  set(${result} "${launcher}" PARENT_SCOPE)
endfunction()

farcc_find_launcher(farcc_launcher)
if(NOT farcc_launcher)
  message(WARNING "farcc: no farcc program was found (set FARCC_LAUNCHER): the build goes on without it")
  return()
endif()

foreach(farcc_language C CXX OBJC OBJCXX)
  set(farcc_variable CMAKE_${farcc_language}_COMPILER_LAUNCHER)
  # The environment variable of the same name is CMake's own default, read after this file.
  set(farcc_users_launcher "${${farcc_variable}}")
  if(NOT farcc_users_launcher)
    set(farcc_users_launcher "$ENV{${farcc_variable}}")
  endif()
  if(NOT farcc_users_launcher)
    set(${farcc_variable} "${farcc_launcher}")
  elseif(NOT farcc_users_launcher MATCHES "(^|[/;])farcc($|;)")
    message(WARNING "farcc: ${farcc_variable} is set to ${farcc_users_launcher}: farcc is not used for it")
  endif()
endforeach()
message(STATUS "farcc: compiles go through ${farcc_launcher}")

set(farcc_links ON)
if(DEFINED FARCC_LINKS)
  set(farcc_links "${FARCC_LINKS}")
elseif(DEFINED ENV{FARCC_LINKS})
  set(farcc_links "$ENV{FARCC_LINKS}")
endif()
if(farcc_links)
  get_property(farcc_users_launcher GLOBAL PROPERTY RULE_LAUNCH_LINK)
  if(NOT farcc_users_launcher)
    # A text for the shell.
    set_property(GLOBAL PROPERTY RULE_LAUNCH_LINK "\"${farcc_launcher}\"")
    message(STATUS "farcc: links and archives go through ${farcc_launcher}")
  endif()
endif()

# Written only when it changes.
file(GENERATE OUTPUT "${CMAKE_BINARY_DIR}/.farcc-roots" CONTENT "${CMAKE_SOURCE_DIR}\n${CMAKE_BINARY_DIR}\n")

foreach(farcc_name links language variable users_launcher launcher module_directory is_set_up name)
  unset(farcc_${farcc_name})
endforeach()
